"""Adapter folders load with plain peft from any directory; adapters that do not fit a model are refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    GraniteMoeConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

import tiny
from catalogue.files import FILES
from conftest import ROOT
from model_hub import ModelHub
from prefloop.config.training_settings import TrainConfig
from prefloop.core.errors import InputError, SettingError
from prefloop.core.files import read_json, write_json, write_tensors
from prefloop.models.fetch import fetch
from prefloop.models.loading import add_adapter, load_base, load_merged, load_policy, load_trainable, reference_for
from prefloop.models.options import Lora
from prefloop.models.policies import (
    adapts_experts,
    average_policies,
    read_policy,
    replace_adapter,
    trained_weights,
    write_adapter,
)
from prefloop.training.preference import TokenizedPair
from train_policy import train_policy

IDS = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(0))
COMMIT = "d" * 40
PLAIN_PEFT = """
import sys, torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[2], weights_only=True)).logits, sys.argv[3])
"""


def start(folder: Path, *words, **environment) -> None:
    """Run Python in a folder."""
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture
def hub(model_folders) -> ModelHub:
    folder = model_folders["llama"]
    with ModelHub({"owner/llama": {"v1": (COMMIT, folder), COMMIT: (COMMIT, folder)}}) as hub:
        yield hub


@pytest.mark.parametrize("is_from_hub", [False, True])
def test_adapter_folder_loads_with_plain_peft_anywhere(model_folders, hub, tmp_path, is_from_hub):
    """train.py writes the adapter in a project with relative paths, and another program in another folder reads it."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    manifest = project / "results/models/llama/manifest.json"
    fetch(str(model_folders["llama"]), manifest.parent)
    if is_from_hub:
        write_json(manifest, read_json(manifest) | {"source": "owner/llama@v1", "commit": COMMIT})
    (project / "pairs.jsonl").write_text(FILES["pairs.jsonl"].replace("[5, 6, 1]", "[5, 7, 1]", 1))
    flags = "--model results/models/llama/manifest.json --policy results/models/llama/manifest.json"
    flags += " --pairs pairs.jsonl --output out/policy.pt --metrics out/training.jsonl --speed out/speed.csv"
    flags += " --cost out/cost.json --seed 0 --round 1 --dtype float32 --learning-rate 0.1 --batch-size 1 --epochs 3"
    start(project, ROOT / "workflow/scripts/train.py", *flags.split())
    config = read_json(project / "out/adapter/adapter_config.json")
    expected = ("owner/llama", COMMIT) if is_from_hub else (str(manifest.parent), None)
    assert (config["base_model_name_or_path"], config["revision"]) == expected

    torch.save(IDS, tmp_path / "ids.pt")
    words = [project / "out/adapter", tmp_path / "ids.pt", tmp_path / "logits.pt"]
    start(
        elsewhere, "-c", PLAIN_PEFT, *words, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1"
    )
    assert ("model.safetensors" in hub.fetched) == is_from_hub
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    ours = logits(load_policy(manifest, project / "out/policy.pt", torch.float32, "cpu")[0])
    assert torch.allclose(found, ours, atol=1e-5)
    assert (found - logits(load_base(manifest, torch.float32)[0].eval())).abs().max() > 0.01


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize("change", ["renamed", "absent", "of another shape"])
def test_weights_that_do_not_fit_raise(manifests, trained, tmp_path, parameters, change):
    """peft would ignore unknown names and keep the base model's weights."""
    content, manifest = read_policy(trained(parameters)), manifests["llama"]
    state = content["state_dict"]
    name = next(name for name in state if "layers.1.mlp" in name)
    tensor = state.pop(name)
    if change == "renamed":
        state[name.replace("layers", "blocks")] = tensor
    if change == "of another shape":
        state[name] = tensor[:-1]
    write_tensors(tmp_path / "policy.pt", content)
    problem = r"policy.pt: \d of its weights do not fit the model of .*, such as .*mlp.*; train it again"
    for load in (load_policy, lambda *words: load_trainable(*words[:2], parameters, Lora(r=4), words[2])):
        with pytest.raises(InputError, match=problem):
            load(manifest, tmp_path / "policy.pt", torch.float32, "cpu")


EXPERTS = tiny.SIZES | {"vocab_size": 90, "num_key_value_heads": 2, "num_experts_per_tok": 2}
LATENT = {"first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "n_group": 1}
LATENT |= {"qk_nope_head_dim": 8, "v_head_dim": 12, "n_routed_experts": 4, "topk_group": 1, "moe_intermediate_size": 16}
# Configs, and whether peft adapts their experts.
MIXTURES = {
    "mixtral": (MixtralConfig(**EXPERTS, num_local_experts=4), True),
    "qwen3_moe": (Qwen3MoeConfig(**EXPERTS, num_experts=4, moe_intermediate_size=24, head_dim=8), True),
    "olmoe": (OlmoeConfig(**EXPERTS, num_experts=4), True),
    "deepseek": (DeepseekV3Config(**EXPERTS | {"num_key_value_heads": 4}, **LATENT), True),
    "qwen2_moe": (Qwen2MoeConfig(**EXPERTS, num_experts=4, moe_intermediate_size=24), False),
    "gpt_oss": (GptOssConfig(**EXPERTS, num_local_experts=4, head_dim=8), False),
    "granite_moe": (GraniteMoeConfig(**EXPERTS, num_local_experts=4), False),
}


def mixture(config: PretrainedConfig, folder: Path) -> Path:
    """Fetch a mixture of experts with random weights; return its manifest."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    model.save_pretrained(folder / "made")
    tiny.tokenizer().save_pretrained(folder / "made")
    fetch(str(folder / "made"), folder / "base")
    return folder / "base/manifest.json"


PAIRS = [TokenizedPair([0, 10 + i, 20], [5, 9, 33 + i, 1], [7, 40 + i, 1], -20.0, -15.0, 1.0, 0.0) for i in range(8)]


@pytest.mark.parametrize("name", MIXTURES)
def test_trained_mixture_of_experts_loads_with_plain_peft(tmp_path, name):
    """policy.pt, a merged policy and the adapter folder read by plain peft give the same logits."""
    config, has_adapted_experts = MIXTURES[name]
    manifest = mixture(config, tmp_path)
    torch.manual_seed(0)
    model, _ = load_trainable(manifest, manifest, "lora", Lora(r=2), torch.float32)
    settings = TrainConfig(lora=Lora(r=2), learning_rate=3e-2, epochs=3, batch_size=4, micro_batch_size=2)
    train_policy(model, PAIRS, settings)
    model.eval()
    for parameter_name, parameter in model.named_parameters():
        assert "lora_B" not in parameter_name or parameter.any(), f"{parameter_name} has had no gradient"
    expected, base = logits(model), logits(load_base(manifest, torch.float32)[0].eval())
    assert (expected - base).abs().max() > 0.01

    policy = tmp_path / "policy.pt"
    tiny.write_policy(policy, model, manifest, Lora(r=2))
    content = read_policy(policy)
    assert adapts_experts(content) == has_adapted_experts
    loaded, _ = load_policy(manifest, policy, torch.float32, "cpu")
    assert torch.allclose(logits(loaded), expected, atol=1e-5)
    _, as_reference = reference_for(loaded, policy, manifest, manifest, torch.float32, "cpu")
    with as_reference():
        assert torch.allclose(logits(loaded), base, atol=1e-5)
    assert torch.allclose(logits(loaded.merge_and_unload()), expected, atol=1e-3)

    replace_adapter(tmp_path / "adapter", model, manifest, trained_weights(model, Lora(r=2)))
    plain = AutoModelForCausalLM.from_pretrained(manifest.parent)
    assert torch.allclose(logits(PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()), expected, atol=1e-5)
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    targets = settings["target_parameters"] or []
    assert (targets == sorted(targets), bool(targets)) == (True, has_adapted_experts)
    if has_adapted_experts:
        with pytest.raises(InputError, match="adapters of experts cannot be averaged"):
            average_policies(None, content, 0.5)


@pytest.mark.parametrize("name", MIXTURES)
def test_dropout_of_adapted_experts_is_refused(tmp_path, name):
    """If experts have no adapters, dropout of the other adapters works as in peft."""
    config, has_adapted_experts = MIXTURES[name]
    manifest = mixture(config, tmp_path)
    lora = Lora(r=2, dropout=0.1)
    if has_adapted_experts:
        with pytest.raises(
            SettingError, match="lora.dropout: 0.1, but adapters of experts cannot have dropout; set it"
        ):
            load_trainable(manifest, manifest, "lora", lora, torch.float32)
        return
    model, _ = load_trainable(manifest, manifest, "lora", lora, torch.float32)
    train_policy(model, PAIRS, TrainConfig(lora=lora, learning_rate=3e-2, batch_size=4, micro_batch_size=2))
    assert (logits(model.eval()) - logits(load_base(manifest, torch.float32)[0].eval())).abs().max() > 0.01


KINDS = {
    "rslora": Lora(r=4, rslora=True),
    "dora": Lora(r=4, dora=True),
    "some layers": Lora(r=4, target_modules=("layers.1.mlp.up_proj", "v_proj")),
    "all of it": Lora(r=4, rslora=True, dora=True, target_modules=("q_proj", "down_proj")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_restored_from_its_files(manifests, tmp_path, kind):
    """policy.pt (unmerged, merged, as a second adapter) and both PEFT folders in plain peft give the same logits."""
    manifest, lora, policy = manifests["llama"], KINDS[kind], tmp_path / "policy.pt"
    torch.manual_seed(0)
    model, _ = load_trainable(manifest, manifest, "lora", lora, torch.float32)
    base = logits(load_base(manifest, torch.float32)[0].eval())
    assert torch.allclose(logits(model.eval()), base, atol=1e-4), "a new adapter changes nothing"
    settings = TrainConfig(lora=lora, learning_rate=3e-2, epochs=3, batch_size=4, micro_batch_size=2)
    train_policy(model, PAIRS, settings)
    for name, parameter in model.named_parameters():
        assert "lora_B" not in name or parameter.any(), f"{name} has had no gradient"
    expected = logits(model.eval())
    assert (expected - base).abs().max() > 0.01
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    targets = lora.target_modules or ("proj",)
    assert adapted and all(name.endswith(targets) for name in adapted)
    assert len(adapted) == {"some layers": 3, "all of it": 4}.get(kind, 14)

    tiny.write_policy(policy, model, manifest, lora)
    content = read_policy(policy)
    again, _ = load_trainable(manifest, policy, "lora", lora, torch.float32)
    assert torch.allclose(logits(again.eval()), expected, atol=1e-5)
    loaded, _ = load_policy(manifest, policy, torch.float32, "cpu")
    assert torch.allclose(logits(loaded), expected, atol=1e-5)
    _, as_reference = reference_for(loaded, policy, manifest, manifest, torch.float32, "cpu")
    with as_reference():
        assert torch.allclose(logits(loaded), base, atol=1e-5)
    shutil.copy(policy, tmp_path / "reference.pt")
    _, as_reference = reference_for(loaded, policy, tmp_path / "reference.pt", manifest, torch.float32, "cpu")
    with as_reference():
        assert torch.allclose(logits(loaded), expected, atol=1e-5)
    assert torch.allclose(logits(load_merged(manifest, policy, torch.float32, "cpu")[0]), expected, atol=1e-3)

    replace_adapter(tmp_path / "adapter", model, manifest, trained_weights(model, lora))
    write_adapter(tmp_path / "for_vllm", content)
    for folder in ("adapter", "for_vllm"):
        plain = AutoModelForCausalLM.from_pretrained(manifest.parent)
        assert torch.allclose(logits(PeftModel.from_pretrained(plain, tmp_path / folder).eval()), expected, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_averaged_adapters_keep_their_scale(manifests, tmp_path, rslora):
    """0.5 · policy is half of the adapter's change of a layer's weights, for any scaling of the rank."""
    manifest, lora, policy = manifests["llama"], Lora(r=2, rslora=rslora), tmp_path / "policy.pt"
    torch.manual_seed(0)
    model = add_adapter(load_base(manifest, torch.float32)[0], lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tiny.write_policy(policy, model, manifest, lora)
    half = average_policies(None, read_policy(policy), 0.5)
    write_tensors(tmp_path / "twice.pt", average_policies(half, read_policy(policy), 0.5))
    deltas = [
        next(m for n, m in read.named_modules() if n.endswith("q_proj")).get_delta_weight("default")
        for read in (load_policy(manifest, path, torch.float32, "cpu")[0] for path in (policy, tmp_path / "twice.pt"))
    ]
    assert torch.allclose(deltas[1], 0.75 * deltas[0], atol=1e-5)


def test_dora_is_not_averaged(manifests, tmp_path):
    model = add_adapter(load_base(manifests["llama"], torch.float32)[0], KINDS["dora"])
    tiny.write_policy(tmp_path / "policy.pt", model, manifests["llama"], KINDS["dora"])
    with pytest.raises(InputError, match="lora.dora cannot be averaged; take another kind of reference"):
        average_policies(None, read_policy(tmp_path / "policy.pt"), 0.5)


@pytest.mark.parametrize("name", ["q_prj", "proj", "lm_head", "embed_tokens"])
def test_missing_layers_raise(manifests, name):
    lora = Lora(target_modules=("q_proj", name))
    with pytest.raises(SettingError, match=rf"lora.target_modules: .* no linear layer {name}; it has down_proj, .*"):
        add_adapter(load_base(manifests["llama"], torch.float32)[0], lora)


@pytest.mark.parametrize("extra", [{"rslora": 1}, {"target_modules": "q_proj"}, {"bias": "all"}])
def test_unknown_adapter_options_raise(manifests, tmp_path, extra):
    model = add_adapter(load_base(manifests["llama"], torch.float32)[0], Lora(r=2))
    tiny.write_policy(tmp_path / "policy.pt", model, manifests["llama"], Lora(r=2))
    content = read_policy(tmp_path / "policy.pt")
    assert content["adapter"] == {"r": 2, "alpha": 32.0, "dropout": 0.0}
    write_tensors(tmp_path / "policy.pt", content | {"adapter": content["adapter"] | extra})
    with pytest.raises(InputError, match=f"adapter.{next(iter(extra))} is .*, which no adapter has; recreate it"):
        read_policy(tmp_path / "policy.pt")


def test_model_without_linear_layers_raises():
    with pytest.raises(InputError, match="peft cannot add adapters to Embedding"):
        add_adapter(torch.nn.Embedding(4, 2), Lora(r=2))
