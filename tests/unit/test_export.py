"""Exports: a merged folder is the policy, its card says what led to it, and the hub gets it whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ROOT
from hub_server import HubServer
from prefloop.cards import front_matter, header, ledger, licence_of, lineage, public, results_of
from prefloop.config import exports_of, repository_of
from prefloop.exports import merge, stored_dtype
from prefloop.fetch import fetch, write_model
from prefloop.models import load_base, load_merged, load_policy
from prefloop.rows import InputError, read_json, sha256_of, write_json

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
def test_the_exported_folder_is_the_policy(manifests, trained, tmp_path, parameters):
    """Plain transformers reads it and says what base and adapter say, to 1e-4; the base model itself says another."""
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


def test_a_model_without_a_chat_template_is_exported_with_the_one_it_was_trained_in(manifests, tmp_path):
    base = manifests["gpt_neox"]
    model, tokenizer = load_merged(base, base, torch.float32, "cpu")
    assert read_json(base.parent / "tokenizer_config.json").get("chat_template") is None
    write_model(model, tokenizer, tmp_path / "model/manifest.json", base, "merged policy of")
    assert "Human" in AutoTokenizer.from_pretrained(tmp_path / "model").chat_template


@pytest.mark.parametrize(("stored", "asked"), [("bfloat16", "base"), ("float32", "float16"), ("bfloat16", "float32")])
def test_weights_are_rounded_once_after_a_merge_in_float32(model_folders, trained, tmp_path, stored, asked):
    """The weights are those of the float32 merge, rounded to what the base model is stored in, or what config says."""
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


def test_an_export_replaces_the_one_before(manifests, trained, tmp_path):
    base, out = manifests["llama"], tmp_path / "model/manifest.json"
    for seed in (0, 1):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model/model-00002-of-00002.safetensors").write_bytes(b"of an export in two parts")
        merge(base, base, trained("lora", seed), out)
        assert not (tmp_path / "model/model-00002-of-00002.safetensors").exists()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    expected = load_merged(base, trained("lora", 1), torch.float32, "cpu")[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_quantised_weights_have_no_dtype_to_merge_into(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(9, dtype=torch.int8), "b": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="stored in I8.*name export.dtype"):
        stored_dtype(tmp_path)


def test_the_header_names_base_model_and_licence_in_the_hubs_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# base\n")
    (tmp_path / "owner/local").mkdir(parents=True)
    manifest = tmp_path / "manifest.json"
    assert front_matter(tmp_path / "README.md") == {"license": "apache-2.0", "tags": ["x"]}
    assert licence_of(manifest, None) == "apache-2.0"
    assert licence_of(manifest, "mit") == "mit"
    for text in ("", "no front matter", "---\n- a\n---\n", "---\n{\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert licence_of(manifest, None) is None
    read = yaml.safe_load(header("Qwen/Qwen3-0.6B", "apache-2.0").strip("-"))
    assert (read["base_model"], read["license"]) == ("Qwen/Qwen3-0.6B", "apache-2.0")
    for source in ("owner/local", "/home/someone/model", "pypi:a==1/b.gguf#sha256=0"):
        assert yaml.safe_load(header(source, None).strip("-")).keys() == {"library_name", "pipeline_tag", "tags"}


def test_the_card_says_what_led_to_the_policy(manifests, trained, tmp_path):
    """Checksums, costs and numbers are those of the files; a home folder in the config is not told."""
    costs = [tmp_path / f"{name}.cost.json" for name in ("generate", "generate_2", "train")]
    for path, stage, tokens in zip(costs, ["generate", "generate", "train"], [10, 20, 5], strict=True):
        write_json(path, {"stage": stage, "tokens_in": tokens, "tokens_out": 1, "flops": 3e12, "seconds": 0.5})
    table = tmp_path / "results.csv"
    pd.DataFrame({"method": ["initial", "dota", "other"], "win": 0.625, "win_low": 0.5, "win_high": 0.75}).to_csv(table)
    (tmp_path / "results.rst").write_text("Brackets are intervals.")
    for name in ("train.jsonl", "eval.jsonl", "pairs.jsonl"):
        (tmp_path / name).write_text(name)
    settings = {
        "policy": {"model": "/home/someone/models/llama"},
        "train": {"beta": 0.25},
        "judges": ["~/secret/j.txt"],
    }
    policy, base = trained("lora"), manifests["llama"]
    words = ["--title", "tiny-dota", "--method", "dota", "--settings", json.dumps(settings), "--card", "README.md"]
    words += ["--model", base, "--base", base, "--prompts", "train.jsonl", "eval.jsonl", "--policies", policy]
    words += ["--pairs", "pairs.jsonl", "--costs", *costs, "--tables", table, "--licence", "mit"]
    command = [sys.executable, ROOT / "workflow/scripts/model_card.py", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "README.md").read_text()
    for told in (
        "license: mit",
        f"1. base model llama, files {read_json(base)['sha256']}",
        f"2. round 1: policy.pt {sha256_of(policy)}, trained on pairs.jsonl {sha256_of(tmp_path / 'pairs.jsonl')}",
        f"* train.jsonl: SHA-256 {sha256_of(tmp_path / 'train.jsonl')}",
        "  model: llama\n",
        "  beta: 0.25\n",
        "- j.txt\n",
        "| generate | 2 | 30 | 2 | 6 | 1 |",
        "| all | 3 | 35 | 3 | 9 | 1.5 |",
        "| dota | 0.625 [0.5, 0.75] |",
        "Brackets are intervals.",
    ):
        assert told in card, told
    for hidden in ("/home", "someone", "secret", str(tmp_path), str(Path.home()), "| other"):
        assert hidden not in card, hidden


def test_what_was_fine_tuned_says_so(manifests, tmp_path):
    write_json(tmp_path / "tuned.json", {"source": "fine-tuned x", "sha256": "abc"})
    lines = lineage(manifests["llama"], tmp_path / "tuned.json", [])
    assert lines[1] == "2. fine-tuned on chosen responses, files abc"


def test_a_method_that_a_table_lacks_gives_no_results(tmp_path):
    pd.DataFrame({"method": ["a"], "win": [0.5]}).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.rst").write_text("Caption.")
    assert results_of(tmp_path / "t.csv", ["b"]) == ""


def test_public_keeps_everything_but_folders_from_the_root():
    value = {"a": ["/x/y", "hub/model"], "b": {"c": "~/z"}, "d": 1.5, "e": None, "f": "./here/too"}
    assert public(value) == {"a": ["y", "hub/model"], "b": {"c": "z"}, "d": 1.5, "e": None, "f": "./here/too"}


def test_costs_of_nothing_but_one_stage_add_up(tmp_path):
    write_json(tmp_path / "c.json", {"stage": "train", "tokens_in": 1, "tokens_out": 2, "flops": 0, "seconds": 1.0})
    assert ledger([tmp_path / "c.json"])["runs"].tolist() == [1, 1]


def test_exports_are_each_methods_end_with_the_first_seed_unless_said():
    usual = {"methods": None, "seeds": None, "rounds": None}
    config = {"compare": ["a", "b"], "seeds": [3, 4], "rounds": 2, "export": usual}
    assert [tuple(where.values()) for where in exports_of(config)] == [("a", 3, 2), ("b", 3, 2)]
    config["export"] = {"methods": ["b"], "seeds": [4, 3], "rounds": [1]}
    assert [tuple(where.values()) for where in exports_of(config)] == [("b", 4, 1), ("b", 3, 1)]
    assert repository_of("me/x-{method}-{seed}-{round}-{other}", exports_of(config)[0]) == "me/x-b-4-1-{other}"


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
    return program("push", folder.parent, environment, **settings)


def test_a_push_makes_the_folder_the_repositorys_content(exported):
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
def test_a_push_without_a_token_that_the_hub_takes_is_an_error(exported, token, message):
    with HubServer(TOKEN) as hub:
        done = push(exported, hub, token)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr
    assert not token or token not in done.stdout + done.stderr
    assert not (exported.parent / "push.json").exists()
    assert hub.files == {}
