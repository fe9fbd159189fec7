"""Label noise: its probabilities, and what its random numbers depend on."""

import math

import numpy as np
import pytest

from annotated_rows import answer
from prefloop.feedback.label_noise import NOISE, add_noise


def rewarded(prompt_id: str, *rewards: float) -> list[dict]:
    """Return rows of rewards.jsonl for the responses to a prompt."""
    return [{"prompt_id": prompt_id, "cluster": 0, "response_id": i, "reward": r} for i, r in enumerate(rewards)]


def responses_to(prompt_id: str, *texts: str) -> list[dict]:
    return [answer(prompt_id, i, text) for i, text in enumerate(texts)]


def noisy(rows, responses, seed=0, stream="round-1/step-1", temperature=1.0) -> list[dict]:
    return add_noise(rows, responses, "bradley_terry", temperature, seed, stream)[0]


@pytest.mark.parametrize(("gap", "temperature"), [(1.0, 1.0), (0.5, 2.0), (3.0, 1.0), (0.0, 1.0)])
def test_labels_of_pairs_follow_the_bradley_terry_model(gap, temperature):
    """With 20,000 pairs, four standard errors are at most 0.014."""
    count = 20_000
    rows = [row for i in range(count) for row in rewarded(f"p{i}", gap, 0.0)]
    responses = [row for i in range(count) for row in responses_to(f"p{i}", "a", "b")]
    rewards = np.array([row["reward"] for row in noisy(rows, responses, temperature=temperature)]).reshape(count, 2)
    assert np.mean(rewards[:, 0] > rewards[:, 1]) == pytest.approx(1 / (1 + math.exp(-gap / temperature)), abs=0.015)


def test_best_of_several_responses_follows_the_plackett_luce_model():
    """The probability of being first is the softmax of the rewards."""
    count, truth = 10_000, np.array([0.0, 1.0, 2.0])
    rows = [row for i in range(count) for row in rewarded(f"p{i}", *truth)]
    responses = [row for i in range(count) for row in responses_to(f"p{i}", "a", "b", "c")]
    rewards = np.array([row["reward"] for row in noisy(rows, responses)]).reshape(count, 3)
    shares = np.bincount(rewards.argmax(axis=1), minlength=3) / count
    assert shares == pytest.approx(np.exp(truth) / np.exp(truth).sum(), abs=0.02)


def test_true_reward_is_kept_in_a_separate_column():
    rows, responses = rewarded("p", 2.0, -1.0), responses_to("p", "a", "b")
    changed = noisy(rows, responses)
    assert [row["reward_true"] for row in changed] == [2.0, -1.0]
    assert all(row["reward"] != row["reward_true"] for row in changed)
    assert rows == rewarded("p", 2.0, -1.0), "the input rows are not changed"


def test_noise_depends_only_on_ids_seed_and_stream():
    """The order of rows and other prompts, for example of another shard, do not matter."""
    rows, responses = rewarded("p", 1.0, 2.0, 3.0), responses_to("p", "a", "b", "c")
    others, more = rewarded("q", 1.0, 2.0), responses_to("q", "a", "b")
    alone = noisy(rows, responses)
    assert noisy(others + rows, more + responses)[2:] == alone
    assert noisy(rows[::-1], responses)[::-1] == alone
    assert noisy(rows, responses, stream="round-1/step-2") != alone
    assert noisy(rows, responses, seed=1) != alone
    tripled = noisy(rows, responses, temperature=3.0)
    differences = [[row["reward"] - row["reward_true"] for row in found] for found in (alone, tripled)]
    assert differences[1] == pytest.approx([3 * value for value in differences[0]])


def test_identical_responses_share_their_noise():
    rows = noisy(rewarded("p", 1.0, 5.0, 1.0), responses_to("p", "same", "other", "same"))
    assert rows[0]["reward"] == rows[2]["reward"]
    assert rows[0]["reward"] - 1 != rows[1]["reward"] - 5


def test_changed_labels_are_counted(monkeypatch):
    """Growing noise reverses every order. Ties and pairs of identical texts do not count as labels."""
    draws = iter([0.0, 10.0, 20.0, 0.0, 0.0, 0.0])
    monkeypatch.setitem(NOISE, "planted", lambda rng, temperature: next(draws) * temperature)
    rows = rewarded("p", 3.0, 2.0, 2.0) + rewarded("q", 1.0, 0.0, 0.0)
    responses = responses_to("p", "a", "b", "c") + responses_to("q", "a", "b", "a")
    changed, flipped = add_noise(rows, responses, "planted", 0.1, 0, "")
    assert [row["reward"] for row in changed] == [3.0, 3.0, 4.0, 1.0, 0.0, 0.0]
    assert flipped == [1, 3]
