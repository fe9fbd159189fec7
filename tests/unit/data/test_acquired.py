"""The choice of responses to label: by a head trained on the labels of earlier steps, and random before that."""

import numpy as np
import pytest

from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.data.acquired import (
    LabelChoice,
    StepFiles,
    choose_responses,
    keep_acquired,
    read_candidate_features,
    read_history,
)
from prefloop.data.feature_rows import write_features
from prefloop.methods.acquisition import ACQUISITION_RULES, ACQUISITIONS
from prefloop.methods.reward_head import sigmoid

PROMPTS, RESPONSES, FEATURES = 12, 4, 3
WEIGHTS = np.array([1.0, -2.0, 0.0])


def write_step(folder, seed: int, judged: bool = False, labels: int = RESPONSES) -> StepFiles:
    """Write a step with rewards that are linear in its features; the features have large means and different scales."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((PROMPTS, RESPONSES, FEATURES)) * [1, 100, 0.01] + rng.standard_normal(
        (PROMPTS, 1, 1)
    )
    rewards = (features / [1, 100, 0.01]) @ WEIGHTS
    keys = [
        {"prompt_id": f"p{p}", "cluster": p % 2, "response_id": r} for p in range(PROMPTS) for r in range(RESPONSES)
    ]
    write_rows(folder / "logprobs.jsonl", keys)
    write_features(folder / "features.npy", features.reshape(-1, FEATURES).astype(np.float32))
    rows = []
    for key in keys:
        p, r = int(key["prompt_id"][1:]), key["response_id"]
        if r < labels and not judged:
            rows.append(key | {"reward": float(rewards[p, r])})
        if judged and r < 2:
            chance = float(sigmoid(rewards[p, 0] - rewards[p, 1]))
            judgment = {"reward": chance if r == 0 else 1 - chance, "beats": [], "judged": [], "answers": []}
            rows.append(key | judgment | ({"judged": [[1, chance, chance]]} if r == 0 else {}))
    write_rows(folder / "rewards.jsonl", rows)
    return StepFiles(*(folder / name for name in ("logprobs.jsonl", "features.npy", "rewards.jsonl")))


def choose(rule: str, step: StepFiles, history, seed: int = 0, labels: int = 2, prompts: int | None = None):
    candidates = read_candidate_features(step.logprobs, step.features)
    return choose_responses(candidates, history, LabelChoice(rule, labels, 1.0, seed, (2, 1), prompts))


def test_config_knows_every_rule():
    assert ("all", *ACQUISITIONS) == ACQUISITION_RULES


@pytest.mark.parametrize("judged", [False, True])
def test_head_learns_planted_rewards(tmp_path, judged):
    history = read_history([write_step(tmp_path / str(seed), seed, judged) for seed in range(4)])
    assert (len(history.targets), history.judged) == (
        (4 * PROMPTS, True) if judged else (4 * PROMPTS * RESPONSES, False)
    )
    rows, has_head = choose("delta_ucb", write_step(tmp_path / "next", 9), history)
    assert has_head
    truth = (np.load(tmp_path / "next/features.npy") / [1, 100, 0.01]) @ WEIGHTS
    truth = truth.reshape(PROMPTS, RESPONSES)
    gaps = [
        np.ptp([truth[int(row["prompt_id"][1:]), row["response_id"]] for row in rows[i : i + 2]])
        for i in range(0, len(rows), 2)
    ]
    assert np.mean(gaps) > 0.85 * np.ptp(truth, axis=1).mean() > 1.3 * np.abs(truth[:, 0] - truth[:, 1]).mean()


def test_predictions_are_in_units_of_the_reward(tmp_path):
    history = read_history([write_step(tmp_path / "a", 0)])
    rows, _ = choose("random_pair", write_step(tmp_path / "b", 1), history, labels=RESPONSES)
    truth = (np.load(tmp_path / "b/features.npy") / [1, 100, 0.01]) @ WEIGHTS
    truth = truth.reshape(PROMPTS, RESPONSES)
    expected = (truth - truth.mean(axis=1, keepdims=True)).ravel()
    assert [row["predicted"] for row in rows] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("rule", list(ACQUISITIONS))
@pytest.mark.parametrize("labels", [2, 3])
def test_first_step_is_the_same_for_every_rule(tmp_path, rule, labels):
    step = write_step(tmp_path / "a", 0)
    rows, has_head = choose(rule, step, None, labels=labels)
    assert (rows, has_head) == choose("random_pair", step, None, labels=labels)
    assert not has_head
    assert all(row["predicted"] is row["deviation"] is None for row in rows)
    assert len(rows) == labels * PROMPTS
    assert rows != choose(rule, step, None, seed=1, labels=labels)[0]
    by_order = sorted(rows, key=lambda row: (int(row["prompt_id"][1:]), row["response_id"]))
    assert rows == by_order


def test_uninformative_labels_lead_to_a_random_choice(tmp_path):
    step = write_step(tmp_path / "a", 0)
    rewards = [{"prompt_id": "p0", "response_id": r, "reward": 1.0} for r in range(2)]
    write_rows(step.rewards, rewards)
    assert choose("drts", write_step(tmp_path / "b", 1), read_history([step]))[1] is False
    write_rows(step.rewards, [row | {"reward": None, "judged": [[1, None, 1.0]]} for row in rewards[:1]])
    assert read_history([step]) is None
    assert read_history([]) is None


def test_label_without_features_raises(tmp_path):
    step = write_step(tmp_path / "a", 0)
    write_rows(step.rewards, [{"prompt_id": "p0", "response_id": 9, "reward": 1.0}])
    with pytest.raises(InputError, match="response 9 to prompt p0 is not in"):
        read_history([step])


def test_only_acquired_responses_are_kept(tmp_path):
    rows = [{"prompt_id": "p", "response_id": number, "response": "text"} for number in range(3)]
    write_rows(tmp_path / "acquired.jsonl", [{"prompt_id": "p", "response_id": 2}])
    assert keep_acquired(rows, tmp_path / "acquired.jsonl") == rows[2:]
    with pytest.raises(InputError, match="no response 2 to prompt p"):
        keep_acquired(rows[:2], tmp_path / "acquired.jsonl")


def test_prompts_of_a_pool_with_the_largest_gaps_get_labels(tmp_path):
    step, history = write_step(tmp_path / "b", 1), read_history([write_step(tmp_path / "a", 0)])
    everything, _ = choose("delta_ucb", step, history)
    gaps = {
        row["prompt_id"]: abs(row["predicted"] - other["predicted"])
        for row, other in zip(everything[::2], everything[1::2], strict=True)
    }
    rows, _ = choose("delta_ucb", step, history, prompts=5)
    assert {row["prompt_id"] for row in rows} == set(sorted(gaps, key=gaps.__getitem__)[-5:])
    assert rows == [row for row in everything if row in rows]


def test_first_prompts_of_a_pool_are_random_and_the_same_for_every_rule(tmp_path):
    step = write_step(tmp_path / "a", 0)
    rows, _ = choose("drts", step, None, prompts=5)
    assert rows == choose("infomax", step, None, prompts=5)[0]
    assert len({row["prompt_id"] for row in rows}) == 5
    assert rows == [row for row in choose("drts", step, None)[0] if row in rows]
    assert rows != choose("drts", step, None, seed=1, prompts=5)[0]
