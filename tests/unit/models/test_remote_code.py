"""Only the config can allow a model to run its own code; files in a results folder cannot."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny
from conftest import ROOT
from prefloop.config.feedback_settings import Judging
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, write_json
from prefloop.core.jsonl import write_rows
from prefloop.feedback.local_judge import LocalJudge
from prefloop.feedback.reward_model import RewardModel, load_trainable_classifier
from prefloop.models import manifests
from prefloop.models.chat import load_tokenizer
from prefloop.models.fetch import fetch, write_model
from prefloop.models.loading import (
    load_base,
    load_encoder,
    load_merged,
    load_policy,
    load_trainable,
)
from prefloop.models.manifests import is_trusted, trust
from prefloop.models.options import Lora
from prefloop.models.positions import generation_config, max_positions

NEEDS_CODE = "it needs code of its own; if you trust it, set trust_remote_code: true next to its name in config"
LOADERS = {
    "base": lambda manifest: load_base(manifest, torch.float32),
    "policy": lambda manifest: load_policy(manifest, manifest, torch.float32, "cpu"),
    "merged": lambda manifest: load_merged(manifest, manifest, torch.float32, "cpu"),
    "trainable": lambda manifest: load_trainable(manifest, manifest, "full", Lora(), torch.float32),
    "reward model": lambda manifest: RewardModel(manifest, 1, 1),
    "classifier": lambda manifest: load_trainable_classifier(manifest, "full", Lora(), 8, torch.float32),
    "judge": lambda manifest: LocalJudge(Judging(), manifest, 1, 1),
    "encoder": lambda manifest: load_encoder(manifest, "cpu"),
    "generation config": generation_config,
    "positions": max_positions,
}


@pytest.fixture(autouse=True)
def no_trust(monkeypatch):
    """Resets trust for every test."""
    monkeypatch.setattr(manifests, "TRUSTED", set())


@pytest.fixture
def planted(model_folders, tmp_path) -> Path:
    """The manifest of a model whose code writes the file `pwned`; the manifest claims permission to run it."""
    source = tmp_path / "source"
    shutil.copytree(model_folders["llama"], source)
    (source / "own.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'pwned')!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel\n"
        "class Own(LlamaConfig):\n    model_type = 'own'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Own\n"
        "class Encoder(LlamaModel):\n    config_class = Own\n"
    )
    config = read_json(source / "config.json")
    own = {"AutoConfig": "own.Own", "AutoModel": "own.Encoder"}
    own |= {f"AutoModelFor{task}": "own.Model" for task in ("CausalLM", "SequenceClassification")}
    (source / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": own}))
    (source / "generation_config.json").unlink(missing_ok=True)
    fetch(str(source), tmp_path / "results/models/own", trust_remote_code=True)
    manifest = tmp_path / "results/models/own/manifest.json"
    assert read_json(manifest)["trust_remote_code"] is True
    return manifest


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_manifest_cannot_permit_code(load, planted, tmp_path):
    with pytest.raises(InputError, match=NEEDS_CODE):
        load(planted)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("load", [LOADERS[name] for name in ("base", "encoder", "positions", "generation config")])
def test_trusted_model_runs_its_code(load, planted, tmp_path):
    trust(planted)
    load(planted)
    assert (tmp_path / "pwned").exists()


def test_fully_trained_policy_of_a_trusted_model_loads(planted, tmp_path):
    """The class is the model's own, and the base model's weights are missing."""
    trust(planted)
    model, _ = load_trainable(planted, planted, "full", Lora(), torch.float32)
    tiny.write_policy(tmp_path / "policy.pt", model, planted, None)
    planted.with_name("model.safetensors").unlink()
    loaded, _ = load_policy(planted, tmp_path / "policy.pt", torch.float32, "cpu")
    assert type(loaded).__name__ == "Model"
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_code_of_a_tokenizer_does_not_run(planted, tmp_path):
    path = planted.parent / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": [None, "own.Words"]}, "tokenizer_class": "Words"}
    path.write_text(json.dumps(read_json(path) | own))
    (planted.parent / "config.json").unlink()
    with pytest.raises(InputError, match=NEEDS_CODE):
        load_tokenizer(planted.parent, is_trusted(planted))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("claim", [True, "true", "no", 1, ["x"]])
def test_claims_of_a_manifest_are_ignored(claim, planted):
    write_json(planted, read_json(planted) | {"trust_remote_code": claim})
    assert not is_trusted(planted)


def test_trust_is_per_model(planted, manifests):
    trust(manifests["llama"])
    assert is_trusted(manifests["llama"])
    assert not is_trusted(planted)


def test_derived_manifest_records_the_permission_of_this_process(planted, manifests, tmp_path):
    base = tmp_path / "base/manifest.json"
    fetch(str(manifests["llama"].parent), base.parent)
    write_json(base, read_json(base) | {"trust_remote_code": True})
    model, tokenizer = load_base(base, torch.float32)
    derived = tmp_path / "derived/manifest.json"
    write_model(model, tokenizer, derived, base, "fine-tuned")
    assert read_json(derived)["trust_remote_code"] is False
    trust(base)
    write_model(model, tokenizer, derived, base, "fine-tuned")
    assert read_json(derived)["trust_remote_code"] is True


def test_program_runs_only_code_of_the_model_in_its_flag(planted, tmp_path):
    rows = [{"prompt_id": f"p{i}", "messages": [{"role": "user", "content": f"question {i}"}]} for i in range(4)]
    write_rows(tmp_path / "rows.jsonl", rows)
    outputs = {"clusters": "clusters.pkl", "table": "a.csv", "eval-table": "b.csv", "cost": "cost.json"}
    words = ["--model", planted, "--prompts", "rows.jsonl", "--eval", "rows.jsonl", "--k", "2", "--k-max", "2"]
    words += ["--seed", "0", "--batch-size", "4", *(word for key in outputs for word in (f"--{key}", outputs[key]))]

    def run(*first):
        command = [sys.executable, ROOT / "workflow/scripts/cluster_prompts.py", *first, *words]
        return subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)

    refused = run("--trusted-model", "results/models/other/manifest.json")
    assert refused.returncode == 1
    assert NEEDS_CODE in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "pwned").exists()
    allowed = run("--trusted-model", "results/models/own/manifest.json")
    assert allowed.returncode == 0, allowed.stderr
    assert (tmp_path / "pwned").exists()
