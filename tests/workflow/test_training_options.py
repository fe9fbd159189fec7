"""Losses and adapters that no preset uses work for two rounds."""

import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from conftest import Workdir
from prefloop.core.files import read_json
from prefloop.core.jsonl import read_rows
from prefloop.models.chat import prompt_ids, read_format
from prefloop.models.loading import load_policy
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs

OPTIONS = {
    "stabilized": {"lora": {"r": 4, "rslora": True, "target_modules": ["q_proj", "down_proj"]}},
    "dora": {"lora": {"r": 4, "dora": True, "dropout": 0.1}},
    "summed": {"loss": {"dpo": 1.0, "nll": 0.2, "my_loss.py:linear": 0.5}},
    "weighted": {"pair_weights": "wpo_sampled"},
    "desensitized": {"ld_alpha": 0.3},
    "sorted": {"loss": "aot_unpaired", "beta_rule": "batch"},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, model_folders) -> Workdir:
    directory = Workdir(tmp_path_factory.mktemp("options"), model_folders["llama"])
    (directory.path / "my_loss.py").write_text("def linear(beta, margin):\n    return -beta * margin\n")
    train = {"batch_size": 4, "micro_batch_size": 2, "learning_rate": 1.0e-3}
    directory.configure(
        compare=list(OPTIONS),
        rounds=2,
        steps=1,
        methods={name: {"train": train | options} for name, options in OPTIONS.items()},
        figures=[],
        tables=[],
    )
    done = directory.run(*(f"results/tiny/{name}/seed-0/round-2/policy.pt" for name in OPTIONS))
    assert done.returncode == 0, done.stdout
    return directory


@pytest.mark.parametrize("method", OPTIONS)
def test_both_rounds_train(ran, method):
    for number in (1, 2):
        steps = read_rows(ran.path / f"results/tiny/{method}/seed-0/round-{number}/training.jsonl")
        assert all(math.isfinite(step["loss"]) for step in steps)
        assert all(step["grad_norm"] > 0 for step in steps)


@pytest.mark.parametrize("method", ["stabilized", "dora"])
def test_adapters_load_with_plain_peft(ran, method):
    """The second round continues from the first adapter, and peft alone gives the logits of policy.pt."""
    run, ids = ran.path / f"results/tiny/{method}/seed-0", torch.tensor([[5, 9, 33, 1, 7]])
    (manifest,) = (ran.path / "results/models").glob("*/manifest.json")
    found = []
    with torch.no_grad():
        for number in (1, 2):
            ours, _ = load_policy(manifest, run / f"round-{number}/policy.pt", torch.float32, "cpu")
            base = AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=torch.float32)
            plain = PeftModel.from_pretrained(base, run / f"round-{number}/adapter").eval()
            found.append(plain(ids).logits)
            assert torch.allclose(found[-1], ours(ids).logits, atol=1e-5)
    assert not torch.equal(*found)
    config = read_json(run / "round-2/adapter/adapter_config.json")
    assert (config["use_rslora"], config["use_dora"]) == (method == "stabilized", method == "dora")
    if method == "stabilized":
        assert config["target_modules"] == ["down_proj", "q_proj"]


def test_log_probs_of_prefixes_come_from_the_reference(ran):
    """The policy of round 2 differs from the reference. Training in round 1 starts at margin 0."""
    run = ran.path / "results/tiny/desensitized/seed-0"
    (manifest,) = (ran.path / "results/models").glob("*/manifest.json")
    reference, tokenizer = load_policy(manifest, manifest, torch.float32, "cpu")
    scorer, chat = prepare_scorer(reference), read_format(ran.path / "results/tiny/prompts/chat.json")
    rows, longer = read_rows(run / "round-2/pairs.jsonl"), 0
    for row in rows:
        shared = min(row["n_chosen"], row["n_rejected"])
        for side in ("chosen", "rejected"):
            ids = row[f"token_ids_{side}"][:shared]
            with torch.no_grad():
                expected = response_logprobs(scorer, [prompt_ids(tokenizer, row["messages"], chat)], [ids]).item()
            assert row[f"logp_ref_prefix_{side}"] == pytest.approx(expected, abs=1e-3)
            longer += row[f"n_{side}"] > shared
    assert longer, "no pair has unequal lengths"
    plain = read_rows(ran.path / "results/tiny/weighted/seed-0/round-1/pairs.jsonl")
    names = [name for name in read_rows(run / "round-1/pairs.jsonl")[0] if not name.startswith("logp_ref_prefix")]
    assert [list(row) for row in plain] == [names] * len(plain), "other methods have no prefixes"
    first = read_rows(run / "round-1/training.jsonl")[0]
    assert max(abs(first["margins/min"]), abs(first["margins/max"])) < 1e-3, "the policy equals the reference"


def test_editing_a_weighted_function_retrains(ran):
    path = ran.path / "my_loss.py"
    text = path.read_text()
    targets = [f"results/tiny/{name}/seed-0/round-1/policy.pt" for name in OPTIONS]
    try:
        path.write_text(text.replace("-beta", "-2 * beta"))
        assert ran.jobs(*targets) == {"train"}
    finally:
        path.write_text(text)
    assert ran.jobs(*targets) == set()
