"""4-bit base weights: one setting for all stages that load them, refused if they cannot be used."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft.tuners.lora import Linear as PlainAdapter

import tiny
from conftest import ROOT
from prefloop.core.errors import InputError
from prefloop.generation.responses import resolve_engine
from prefloop.methods.samplers import Sampling
from prefloop.models import quantization
from prefloop.models.fused_lora import LoraLinear
from prefloop.models.loading import load_base, load_merged, load_policy, load_scorers, load_trainable
from prefloop.models.options import Lora
from prefloop.models.quantization import quantization_of, quantize

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def no_other_tests(monkeypatch):
    monkeypatch.setattr(quantization, "QUANTIZED", {})


def install(monkeypatch, packages):
    """Let the library find only these packages; transformers and peft are not affected."""
    finder = SimpleNamespace(find_spec=lambda name: name if name in packages else None)
    monkeypatch.setattr(quantization, "importlib", SimpleNamespace(util=finder))


@pytest.fixture
def loads(monkeypatch):
    """Records the options of every model load in transformers, on a machine that seems to have a GPU."""
    calls, real = [], transformers.AutoModelForCausalLM.from_pretrained

    def from_pretrained(folder, **options):
        calls.append(SimpleNamespace(config=options.pop("quantization_config", None), device=options.pop("device_map")))
        model, loading = real(folder, **options)
        model.is_loaded_in_4bit = True
        return model, loading

    monkeypatch.setattr("prefloop.models.devices.default_device", lambda: "cuda")
    install(monkeypatch, ["bitsandbytes"])
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    return calls


def test_all_loaders_request_the_same_format(loads, manifests):
    """Generation, scoring and training read base weights in one format and compute in the stage's dtype."""
    manifest = manifests["llama"]
    quantize(manifest, "nf4")
    load_policy(manifest, manifest, BF16, "cpu")
    load_merged(manifest, manifest, BF16, "cpu")
    load_scorers(manifest, manifest, manifest, BF16, "cpu")
    load_trainable(manifest, manifest, "lora", Lora(r=4), BF16)
    assert len(loads) == 4
    for load in loads:
        assert load.device == {"": "cuda"}
        assert load.config.load_in_4bit and load.config.bnb_4bit_quant_type == "nf4"
        assert load.config.bnb_4bit_use_double_quant
        assert load.config.bnb_4bit_compute_dtype == BF16
        assert load.config.to_dict() == loads[0].config.to_dict()


def test_other_models_are_not_quantized(monkeypatch, manifests):
    """Without the setting, no quantization option is passed to transformers."""
    quantize(manifests["llama"], "nf4")
    given, real = [], transformers.AutoModelForCausalLM.from_pretrained
    record = lambda folder, **options: given.append(options) or real(folder, **options)  # noqa: E731
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", record)
    load_base(manifests["qwen"], torch.float32)
    assert not {"quantization_config", "device_map"} & given[0].keys()


def test_adapters_are_not_merged_into_rounded_weights(loads, manifests, tmp_path):
    """Sampling uses the unmerged adapter, and peft's layers dequantize the base weights."""
    manifest, policy = manifests["llama"], tmp_path / "policy.pt"
    quantize(manifest, "nf4")
    trained, _ = load_trainable(manifest, manifest, "lora", Lora(r=4), torch.float32)
    layers = [module for module in trained.modules() if isinstance(module, PlainAdapter)]
    assert layers and not any(isinstance(layer, LoraLinear) for layer in layers)
    tiny.write_policy(policy, trained, manifest, Lora(r=4))
    merged, _ = load_merged(manifest, policy, torch.float32, "cpu")
    assert hasattr(merged, "disable_adapter") and len(loads) == 2


@pytest.mark.parametrize("trained_in_4_bits", [True, False])
def test_policy_loads_only_with_the_format_it_was_trained_with(
    loads, monkeypatch, manifests, tmp_path, trained_in_4_bits
):
    manifest, policy = manifests["llama"], tmp_path / "policy.pt"
    quantize(manifest, "nf4")
    network, _ = load_trainable(manifest, manifest, "lora", Lora(r=4), torch.float32)
    both = {True: dict(quantization.QUANTIZED), False: {}}
    monkeypatch.setattr(quantization, "QUANTIZED", both[trained_in_4_bits])
    tiny.write_policy(policy, network, manifest, Lora(r=4))
    monkeypatch.undo()
    monkeypatch.setattr(quantization, "QUANTIZED", both[not trained_in_4_bits])
    if not trained_in_4_bits:
        monkeypatch.setattr("prefloop.models.loading.quantized_loading", lambda *_: {})  # this machine has no GPU
    words = ["nf4", "full precision"] if trained_in_4_bits else ["full precision", "nf4"]
    with pytest.raises(InputError, match="trained on base weights in {}, which are loaded in {}".format(*words)):
        load_policy(manifest, policy, torch.float32, "cpu")


def test_machine_without_gpu_or_bitsandbytes_is_refused(monkeypatch, manifests):
    quantize(manifests["llama"], "nf4")
    monkeypatch.setattr("prefloop.models.devices.default_device", lambda: "cpu")
    with pytest.raises(InputError, match="policy.quantization: nf4 needs a GPU, and this stage runs on cpu"):
        load_base(manifests["llama"], BF16)
    monkeypatch.setattr("prefloop.models.devices.default_device", lambda: "cuda")
    install(monkeypatch, [])
    with pytest.raises(InputError, match="policy.quantization: nf4 needs the package bitsandbytes; install it"):
        load_base(manifests["llama"], BF16)


def test_unknown_format_raises(manifests):
    with pytest.raises(InputError, match="policy.quantization: 'int3' is not one of nf4"):
        quantize(manifests["llama"], "int3")
    assert quantization_of(manifests["llama"]) is None


def test_format_flag_comes_before_a_programs_own_flags(manifests, tmp_path):
    """Without a GPU the flag leads to a one-line error. Without the flag the program works."""
    program, manifest = ROOT / "workflow/scripts/measure_kl.py", manifests["llama"]
    chat = tmp_path / "prompts.jsonl"
    chat.write_text('{"prompt_id": "p", "cluster": 0, "messages": [{"role": "user", "content": "the answer"}]}\n')
    words = ["--prompts", chat, "--model", manifest, "--policy", manifest, "--reference", manifest, "--seed", "0"]
    words += ["--stream", "x", "--batch-size", "2", "--max-new-tokens", "3", "--samples", "1", "--dtype", "float32"]
    words += ["--output", tmp_path / "kl.jsonl", "--cost", tmp_path / "cost.json"]

    def run(*first):
        command = list(map(str, [sys.executable, program, *first, *words]))
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert (plain := run()).returncode == 0, plain.stderr
    refused = run("--quantized-model", manifest, "nf4")
    assert refused.returncode == 1
    assert "error: policy.quantization: nf4 needs a GPU" in refused.stderr and "Traceback" not in refused.stderr


def test_quantized_policies_are_sampled_by_transformers(monkeypatch):
    monkeypatch.setattr("prefloop.generation.responses.vllm_has_gpu", lambda: True)
    assert resolve_engine("auto", Sampling()) == "vllm"
    assert resolve_engine("auto", Sampling(), "nf4") == "transformers"
    with pytest.raises(InputError, match="engine vllm: it reads base weights in full, not in nf4"):
        resolve_engine("vllm", Sampling(), "nf4")


def test_rules_pass_the_format_to_all_programs_that_load_policies(workdir):
    """Other programs do not get the format. Exports of merged models are refused before any job."""
    workdir.configure(policy={"quantization": "nf4"}, evaluation={"kl": {"samples": 1}}, figures=["gradients"])
    planned = workdir.run("--dry-run", "--printshellcmds")
    assert planned.returncode == 0, planned.stdout
    commands = re.findall(r"scripts/(\w+)\.py (--quantized-model \S+/manifest.json nf4 )?--", planned.stdout)
    with_format = {name for name, flag in commands if flag}
    assert with_format == {"generate", "logprobs", "train", "measure_gradients"}
    assert not with_format & {name for name, flag in commands if not flag}
    export = workdir.run("--dry-run", "export")
    assert export.returncode != 0
    assert "export: policy.quantization nf4: adapters fit only the rounded weights" in export.stdout
