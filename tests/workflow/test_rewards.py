"""Several sources of rewards and noise work for two rounds. Training gets the noise and evaluation does not."""

import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from conftest import Workdir
from prefloop.core.jsonl import read_rows

NOISE = {"kind": "bradley_terry", "temperature": 2.0}
METHODS = ("noisy", "plain", "members")


def vowels(text: str) -> int:
    return sum(letter in "aeiou" for letter in text)


def capitals(text: str) -> int:
    return sum(letter.isupper() for letter in text)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, model_folders) -> Workdir:
    """Run a noisy sum of a function and a reward model, a function, and an ensemble of two reward models."""
    root = tmp_path_factory.mktemp("rewards")
    models = [
        {"kind": "reward_model", "model": str(tiny.make_reward_model(root / f"model_{seed}", seed=seed))}
        for seed in (0, 1)
    ]
    directory = Workdir(root, model_folders["llama"])
    function = {"function": "rewards:vowels", "weight": 0.5}
    directory.configure(
        compare=list(METHODS),
        steps=1,
        figures=["quality"],
        tables=["results"],
        methods={
            "noisy": {"feedback": {"kind": "sum", "sources": [function, models[0] | {"weight": 2.0}], "noise": NOISE}},
            "plain": {},
            "members": {
                "feedback": {"kind": "ensemble", "sources": models},
                "pairs": {"metric": "disagreement"},
                "bandit": {"metric": "agreement"},
            },
        },
        evaluation={
            "evaluator": {"kind": "sum", "sources": [function, {"function": "rewards:capitals", "weight": -1.0}]}
        },
    )
    done = directory.run()
    assert done.returncode == 0, done.stdout
    return directory


@pytest.fixture(scope="module")
def results(directory) -> Path:
    return directory.path / "results/tiny"


def step(results: Path, method: str, round_index: int, name: str) -> list[dict]:
    return read_rows(results / f"{method}/seed-0/round-{round_index}/step-1/{name}.jsonl")


@pytest.mark.parametrize("round_index", [1, 2])
def test_sum_has_the_columns_of_its_sources(results, round_index):
    rewards, generations = (step(results, "noisy", round_index, name) for name in ("rewards", "generations"))
    assert [row["reward_vowels"] for row in rewards] == [vowels(row["response"]) for row in generations]
    assert len({row["reward_source_2"] for row in rewards}) > 1
    for row in rewards:
        assert row["reward_true"] == pytest.approx(0.5 * row["reward_vowels"] + 2 * row["reward_source_2"])
        assert row["reward"] != row["reward_true"]


@pytest.mark.parametrize("round_index", [1, 2])
def test_noisy_rewards_determine_pairs(results, round_index):
    by_key = {(row["prompt_id"], row["response_id"]): row for row in step(results, "noisy", round_index, "rewards")}
    pairs = read_rows(results / f"noisy/seed-0/round-{round_index}/pairs.jsonl")
    assert pairs
    for pair in pairs:
        chosen, rejected = (by_key[pair["prompt_id"], pair[f"response_id_{side}"]] for side in ("chosen", "rejected"))
        assert (pair["reward_chosen"], pair["reward_rejected"]) == (chosen["reward"], rejected["reward"])
        assert chosen["reward"] > rejected["reward"]


def test_rounds_have_different_noise(results):
    def noise(round_index: int) -> set[float]:
        return {row["reward"] - row["reward_true"] for row in step(results, "noisy", round_index, "rewards")}

    assert not noise(1) & noise(2)
    cost = json.loads((results / "noisy/seed-0/round-1/step-1/reward.cost.json").read_text())
    changed, total = cost["flipped_labels"]
    assert 0 < changed < total


def test_ensemble_has_mean_and_disagreement_of_its_members(results):
    for row in step(results, "members", 2, "rewards"):
        members = row["reward_source_1"], row["reward_source_2"]
        assert row["reward"] == pytest.approx(np.mean(members))
        assert row["disagreement"] == pytest.approx(np.std(members))
        assert "reward_true" not in row
    response = step(results, "members", 2, "pfp")[0]["responses"][0]
    assert {"reward_source_1", "reward_source_2", "disagreement"} <= response.keys()


@pytest.mark.parametrize("round_index", [1, 2])
def test_pairs_with_most_disagreement_come_first(results, round_index):
    rows = {
        (row["prompt_id"], row["response_id"]): np.array([row["reward_source_1"], row["reward_source_2"]])
        for row in step(results, "members", round_index, "rewards")
    }
    pairs = read_rows(results / f"members/seed-0/round-{round_index}/pairs.jsonl")
    for pair in pairs:
        chosen, rejected = (rows[pair["prompt_id"], pair[f"response_id_{side}"]] for side in ("chosen", "rejected"))
        assert pair["score"] == pytest.approx(np.std(chosen - rejected))
    scores = [pair["score"] for pair in pairs]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0


def test_single_function_adds_only_the_reward(results):
    assert all(
        set(row) == {"prompt_id", "cluster", "response_id", "reward"} for row in step(results, "plain", 1, "rewards")
    )


def test_sum_costs_as_much_as_its_models(results):
    one, two = (
        json.loads((results / f"{method}/seed-0/round-1/step-1/reward.cost.json").read_text())
        for method in ("noisy", "members")
    )
    assert one["tokens_in"] > 0
    assert (two["tokens_in"], two["flops"]) == (2 * one["tokens_in"], 2 * one["flops"]), "the same responses in round 1"


def test_evaluation_has_no_noise(results):
    (folder,) = (results / "noisy/seed-0/round-2/evaluation").glob("temperature-*")
    texts = {row["prompt_id"]: row["response"] for row in read_rows(folder / "samples.jsonl")}
    judgments = read_rows(folder / "against-initial.jsonl")
    assert judgments
    for row in judgments:
        text = texts[row["prompt_id"]]
        assert row["feedback"] == vowels(text)
        assert row["reward"] == 0.5 * vowels(text) - capitals(text)


def test_changed_noise_reruns_rewards_of_its_method(directory):
    config = (directory.path / "config.yaml").read_text()
    assert directory.jobs() == set()
    directory.configure(methods={"noisy": {"feedback": {"noise": {"temperature": 1.0}}}})
    changed = directory.jobs("results/tiny/noisy/seed-0/round-1/policy.pt")
    assert "reward" in changed
    assert not {"generate", "allocate", "logprobs", "fetch_model"} & changed
    assert directory.jobs("results/tiny/members/seed-0/round-2/policy.pt") == set()
    (directory.path / "config.yaml").write_text(config)
