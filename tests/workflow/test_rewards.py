"""Runs of two rounds whose rewards have noise: training sees the noise, evaluation does not."""

from pathlib import Path

import pytest

from conftest import Workdir
from prefloop.core.jsonl import read_rows

NOISE = {"kind": "bradley_terry", "temperature": 2.0}


def vowels(text: str) -> int:
    return sum(letter in "aeiou" for letter in text)


@pytest.fixture(scope="module")
def results(tmp_path_factory, model_folders) -> Path:
    directory = Workdir(tmp_path_factory.mktemp("rewards"), model_folders["llama"])
    directory.configure(compare=["noisy", "plain"], steps=1, figures=[], tables=["results"])
    directory.configure(methods={"noisy": {"feedback": {"noise": NOISE}}, "plain": {}})
    done = directory.run()
    assert done.returncode == 0, done.stdout
    return directory.path / "results/tiny"


def step(results: Path, method: str, round_index: int, name: str) -> list[dict]:
    return read_rows(results / f"{method}/seed-0/round-{round_index}/step-1/{name}.jsonl")


@pytest.mark.parametrize("round_index", [1, 2])
def test_noisy_rewards_decide_pairs_and_true_ones_are_kept(results, round_index):
    rewards, generations = (step(results, "noisy", round_index, name) for name in ("rewards", "generations"))
    assert [row["reward_true"] for row in rewards] == [vowels(row["response"]) for row in generations]
    assert all(row["reward"] != row["reward_true"] for row in rewards)
    by_key = {(row["prompt_id"], row["response_id"]): row for row in rewards}
    pairs = read_rows(results / f"noisy/seed-0/round-{round_index}/pairs.jsonl")
    for pair in pairs:
        chosen, rejected = (by_key[pair["prompt_id"], pair[f"response_id_{side}"]] for side in ("chosen", "rejected"))
        assert (pair["reward_chosen"], pair["reward_rejected"]) == (chosen["reward"], rejected["reward"])
        assert chosen["reward"] > rejected["reward"]


def test_rounds_have_noise_of_their_own(results):
    def noise(round_index: int) -> set[float]:
        return {row["reward"] - row["reward_true"] for row in step(results, "noisy", round_index, "rewards")}

    assert not noise(1) & noise(2)


def test_rewards_without_noise_have_no_column_of_it(results):
    assert all("reward_true" not in row for row in step(results, "plain", 1, "rewards"))


def test_evaluation_has_no_noise(results):
    (folder,) = (results / "noisy/seed-0/round-2/evaluation").glob("temperature-*")
    samples = {row["prompt_id"]: row["response"] for row in read_rows(folder / "samples.jsonl")}
    judgments = read_rows(folder / "against-initial.jsonl")
    assert judgments
    assert [row["feedback"] for row in judgments] == [vowels(samples[row["prompt_id"]]) for row in judgments]
