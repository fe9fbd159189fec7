"""Exports: a merged folder equals the policy, and a push makes it the content of a repository on the hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ROOT
from families import make_family
from hub_server import HubServer
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, sha256_of
from prefloop.models.chat import eos_ids
from prefloop.models.export import merge, stored_dtype
from prefloop.models.fetch import fetch, write_model
from prefloop.models.loading import load_base, load_merged, load_policy

TOKEN = "hf_aTokenThatNobodyMayRead"


def program(name: str, folder: Path, environment: dict | None = None, **settings) -> subprocess.CompletedProcess:
    words = [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command = [sys.executable, ROOT / f"workflow/scripts/{name}.py", *words]
    return subprocess.run(
        command, cwd=folder, env=os.environ | (environment or {}), capture_output=True, text=True, timeout=120
    )


def log_probabilities(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits.log_softmax(dim=-1)


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_exported_folder_equals_the_policy(manifests, trained, tmp_path, parameters):
    """Plain transformers loads it. Its log-probabilities equal those of base and adapter, not those of the base."""
    base, policy = manifests["llama"], trained(parameters)
    merge(base, base, policy, tmp_path / "model/manifest.json")
    assert (tmp_path / "model/model.safetensors").is_file() and not list(tmp_path.glob("model/*.bin"))
    ids = torch.randint(3, 90, (4, 17), generator=torch.Generator().manual_seed(0))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert not hasattr(exported, "peft_config") and exported.dtype == torch.float32
    unmerged, tokenizer = load_policy(base, policy, torch.float32, "cpu")
    found, expected = log_probabilities(exported, ids), log_probabilities(unmerged, ids)
    assert (found - expected).abs().max() < 1e-4
    assert (found - log_probabilities(load_base(base, torch.float32)[0].eval(), ids)).abs().max() > 0.01
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    conversation = [{"role": "user", "content": "what is good?"}]
    assert again.chat_template == tokenizer.chat_template
    asked = {"tokenize": False, "add_generation_prompt": True}
    assert again.apply_chat_template(conversation, **asked) == tokenizer.apply_chat_template(conversation, **asked)
    assert exported.generation_config.eos_token_id == unmerged.generation_config.eos_token_id
    manifest = read_json(tmp_path / "model/manifest.json")
    assert manifest["files"] == {
        path.name: sha256_of(path) for path in sorted(tmp_path.glob("model/*")) if path.name != "manifest.json"
    }


def test_plain_chat_template_is_exported(manifests, tmp_path):
    base = manifests["gpt_neox"]
    model, tokenizer = load_merged(base, base, torch.float32, "cpu")
    assert read_json(base.parent / "tokenizer_config.json").get("chat_template") is None
    write_model(model, tokenizer, tmp_path / "model/manifest.json", base, "merged policy of")
    assert "Human" in AutoTokenizer.from_pretrained(tmp_path / "model").chat_template


@pytest.mark.parametrize(("stored", "asked"), [("bfloat16", "base"), ("float32", "float16"), ("bfloat16", "float32")])
def test_merged_weights_are_rounded_once(model_folders, trained, tmp_path, stored, asked):
    """Weights are merged in float32, then rounded to the base model's dtype or the configured one."""
    model = AutoModelForCausalLM.from_pretrained(model_folders["llama"], dtype=getattr(torch, stored))
    model.save_pretrained(tmp_path / "source")
    AutoTokenizer.from_pretrained(model_folders["llama"]).save_pretrained(tmp_path / "source")
    fetch(str(tmp_path / "source"), tmp_path / "base")
    manifest, policy = tmp_path / "base/manifest.json", tmp_path / "policy.pt"
    saved = torch.load(trained("lora"), weights_only=True)
    torch.save(saved | {"base_model": read_json(manifest)["sha256"]}, policy)
    wanted = stored if asked == "base" else asked
    assert merge(manifest, manifest, policy, tmp_path / "out/manifest.json", asked) == wanted
    assert (stored_dtype(tmp_path / "base"), stored_dtype(tmp_path / "out")) == (stored, wanted)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    expected = load_merged(manifest, policy, torch.float32, "cpu")[0].state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(exported[name], tensor.to(getattr(torch, wanted)).float(), rtol=0, atol=0)


def test_export_replaces_an_earlier_one(manifests, trained, tmp_path):
    base, out = manifests["llama"], tmp_path / "model/manifest.json"
    for seed in (0, 1):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model/model-00002-of-00002.safetensors").write_bytes(b"of an export in two parts")
        merge(base, base, trained("lora", seed), out)
        assert not (tmp_path / "model/model-00002-of-00002.safetensors").exists()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    expected = load_merged(base, trained("lora", 1), torch.float32, "cpu")[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_quantized_weights_raise(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(9, dtype=torch.int8), "b": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="stored in I8.*set export.dtype"):
        stored_dtype(tmp_path)


@pytest.fixture
def exported(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("manifest.json", "README.md", "config.json", "model.safetensors"):
        (folder / name).write_text(f"{name} of ours")
    return folder


def push(folder: Path, hub: HubServer, token: str) -> subprocess.CompletedProcess:
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": str(folder.parent / "hub_home")}
    settings = {"manifest": folder / "manifest.json", "repository": "me/tiny", "output": folder.parent / "push.json"}
    return program("push_model", folder.parent, environment, **settings)


def test_push_replaces_the_content_of_the_repository(exported):
    with HubServer(TOKEN) as hub:
        first = push(exported, hub, TOKEN)
        assert first.returncode == 0, first.stderr
        assert hub.made[0]["visibility"] == "private"
        hub.files["me/tiny"]["old.safetensors"] = b"of an export in two parts"
        (exported / "config.json").write_text("changed")
        again = push(exported, hub, TOKEN)
        assert again.returncode == 0, again.stderr
        assert hub.files["me/tiny"] == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert read_json(exported.parent / "push.json") == {
        "repository": "me/tiny",
        "commit": f"{hub.url}/me/tiny/commit/0",
    }
    written = [path.read_bytes() for path in exported.parent.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content for content in written)
    assert TOKEN not in first.stdout + first.stderr + again.stdout + again.stderr


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "environment variable HF_TOKEN: not set"), ("hf_wrong", "export.hub_id: me/tiny could not be pushed")],
)
def test_push_without_a_valid_token_raises(exported, token, message):
    with HubServer(TOKEN) as hub:
        done = push(exported, hub, token)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr
    assert not token or token not in done.stdout + done.stderr
    assert not (exported.parent / "push.json").exists()
    assert hub.files == {}


@pytest.mark.parametrize(
    ("settings", "exported"),
    [
        ({"temperature": 0.9, "top_p": 0.6}, {"do_sample": True, "temperature": 0.9, "top_p": 0.6}),
        ({"do_sample": False, "top_k": 20}, {"do_sample": False, "top_k": None}),
    ],
)
def test_model_with_sampling_values_for_greedy_decoding_is_exported(manifests, tmp_path, settings, exported):
    """transformers loads such generation configs of published models, but refuses to save them."""
    base = manifests["llama"]
    model, tokenizer = load_merged(base, base, torch.float32, "cpu")
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    write_model(model, tokenizer, tmp_path / "model/manifest.json", base, "merged policy of")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config.to_dict()
    assert {name: found.get(name) for name in exported} == exported


def test_exported_model_ends_responses_at_the_template_s_token(tmp_path):
    """A base model's EOS is the end of a text, and its template ends turns with another token."""
    make_family(tmp_path / "made", "qwen3_base")
    fetch(str(tmp_path / "made"), tmp_path / "fetched")
    base = tmp_path / "fetched/manifest.json"
    model, tokenizer = load_merged(base, base, torch.float32, "cpu")
    ends = eos_ids(tokenizer, model.generation_config)
    assert len(ends) == 2
    write_model(model, tokenizer, tmp_path / "model/manifest.json", base, "merged policy of")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config.eos_token_id == ends
