"""Facts claim equal cost only if the cost files agree."""

from pathlib import Path

import pytest

from prefloop.config.experiment import Experiment
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.report.equal_costs import equal_cost_facts, listed_amounts


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    """Two methods and two seeds; `b` generates twice the tokens of `a` and has 1 % more labels."""
    found = Experiment(tmp_path, ("a", "b"), (0, 1), rounds=2, steps=1)
    for keys, folder in found.folders():
        second = keys["method"] == "b"
        write_costs(folder, tokens=200 if second else 100, labels=101 if second else 100)
        write_rows(folder / "pairs.jsonl", [{"prompt_id": "p"}] * (4 if second and keys["seed"] else 3))
    return found


def write_costs(folder: Path, tokens: int, labels: int) -> None:
    write_json(folder / "step-1/generate.cost.json", {"stage": "generate", "tokens_out": tokens, "flops": 10})
    write_json(folder / "step-1/reward.cost.json", {"stage": "reward", "tokens_out": 0, "flops": 0, "labels": labels})
    for path in ("step-1/logprobs", "train"):
        write_json(folder / f"{path}.cost.json", {"stage": path, "tokens_out": 0, "flops": 5})


@pytest.mark.parametrize(
    ("kind", "fact"),
    [
        ("labels", "At equal cost: every method used 200 to 202 labels per run."),
        ("flops", "At equal cost: every method used 40 FLOPs per run."),
        ("tokens", "Not at equal cost: generated tokens per run differ by more than 5%: a 200, b 400."),
        ("pairs", "Not at equal cost: trained pairs per run differ by more than 5%: a 6, b 7."),
    ],
)
def test_claim_depends_on_the_files(experiment, kind, fact):
    experiment.equal_cost = kind
    assert equal_cost_facts(experiment) == [fact.replace("5%", "5 %")]


@pytest.mark.parametrize(
    ("amounts", "listed"),
    [
        ({"a": 256, "b": 256, "c": 1024, "d": 250}, "c 1,024, all others 250 to 256"),
        ({"a": 256, "b": 256, "c": 256, "d": 1024}, "d 1,024, all others 256"),
        ({"a": 256, "b": 256, "c": 1024}, "a 256, b 256, c 1,024"),
        ({"a": 1, "b": 2}, "a 1, b 2"),
    ],
)
def test_equal_amounts_are_listed_once(amounts, listed):
    assert listed_amounts(amounts) == listed


def test_nothing_is_claimed_by_default(experiment):
    assert equal_cost_facts(experiment) == []


def test_mixed_pairs_count_as_trained_pairs(experiment):
    experiment.equal_cost, experiment.mixing = "pairs", ("a",)
    for keys, folder in experiment.folders():
        if keys["method"] == "a":
            write_rows(folder / "mixed_pairs.jsonl", [{"prompt_id": "p"}] * 9)
            write_json(folder / "mix_pairs.cost.json", {"stage": "mix_pairs", "tokens_out": 0, "flops": 0})
    assert equal_cost_facts(experiment) == [
        "Not at equal cost: trained pairs per run differ by more than 5 %: a 18, b 7."
    ]
