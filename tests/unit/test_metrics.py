"""Pairs and the metrics that rank them, on numbers worked by hand."""

import numpy as np
import pytest

from prefloop.metrics import METRICS, NEEDS_BETA, NEEDS_REFERENCE, best_worst_pair, keep_top, ordered_pairs
from prefloop.pairs import all_pairs, best_worst_pairs, gap_filters, read_responses, to_columns
from prefloop.rows import InputError, write_rows
from prefloop.stats import spearman

PAIRS = {
    "logp_chosen": np.array([-20.0, -6.0]),
    "logp_rejected": np.array([-15.0, -30.0]),
    "n_chosen": np.array([10.0, 3.0]),
    "n_rejected": np.array([5.0, 10.0]),
    "reward_chosen": np.array([1.0, 3.0]),
    "reward_rejected": np.array([0.5, -1.0]),
    "logp_ref_chosen": np.array([-22.0, -6.0]),
    "logp_ref_rejected": np.array([-14.0, -31.0]),
    "best_worst": np.array([False, True]),
    "beta": np.array(0.1),
}
# Margins: (−20 + 22) − (−15 + 14) = 3, and 0 − 1 = −1. Mean log-probabilities of each pair: −2 and −3, twice.
BY_HAND = {
    "pfp": [5.0, -24.0],
    "pfp_raw": [10 * np.exp(2) - 5 * np.exp(3), 3 * np.exp(2) - 10 * np.exp(3)],
    "pfp_mean": [-3.0 + 2.0, -3.0 + 2.0],
    "reward_gap": [0.5, 4.0],
    "best_worst": [-np.inf, 4.0],
    "dpo_weight": [1 / (1 + np.exp(0.3)), 1 / (1 + np.exp(-0.1))],
    "difficulty": [-3.0, 1.0],
    "less_is_more": [0.5, 0.5],  # the larger gap has the smaller margin: 0 against 1, and 1 against 0
    "alignment_potential": [-1.0, 1.0],  # z(gap) = ∓1; |mean log-probability margin| is 1 in both
    "length_matched_pfp": [1.0, 0.0],  # two pairs make one stratum
}


@pytest.mark.parametrize("name", BY_HAND)
def test_metric_by_hand(name):
    assert METRICS[name](PAIRS, np.random.default_rng(0)) == pytest.approx(np.array(BY_HAND[name]))


def test_random_metric_is_uniform_and_seeded():
    pairs = {name: np.repeat(values, 5000) for name, values in PAIRS.items() if values.ndim}
    scores = METRICS["random"](pairs, np.random.default_rng(0))
    assert scores.mean() == pytest.approx(0.5, abs=0.02)
    assert (scores == METRICS["random"](pairs, np.random.default_rng(0))).all()
    assert (scores != METRICS["random"](pairs, np.random.default_rng(1))).any()


def test_less_is_more_by_hand():
    """41 pairs, gaps and margins 0 … 40: both are clipped to [2, 38]; pair 11 has P = ¼ twice, fused 1/16 of 10/16."""
    steps = np.arange(41.0)
    pairs = {"reward_chosen": steps, "reward_rejected": 0 * steps, "logp_chosen": steps, "beta": np.array(0.1)}
    pairs |= {name: 0 * steps for name in ("logp_rejected", "logp_ref_chosen", "logp_ref_rejected")}
    scores = METRICS["less_is_more"](pairs, np.random.default_rng(0))
    assert scores[11] == pytest.approx(0.1)
    assert scores[:3].tolist() == [0, 0, 0]
    assert scores[-3:].tolist() == pytest.approx([1, 1, 1])
    flat = METRICS["less_is_more"](pairs | {"reward_chosen": 0 * steps}, np.random.default_rng(0))
    assert flat[11] == pytest.approx(0.25), "a gap that is the same everywhere leaves the other's share"


def test_length_matched_pfp_ranks_within_strata():
    """PFP follows the length difference alone, plus noise: matched for length, only the noise is left."""
    rng = np.random.default_rng(0)
    difference, noise = rng.integers(-20, 21, 400).astype(float), rng.random(400)
    pairs = {"n_chosen": 30 + difference, "n_rejected": np.full(400, 30.0), "logp_rejected": 0 * noise}
    pairs["logp_chosen"] = -(10 * difference + noise)
    scores = METRICS["length_matched_pfp"](pairs, rng)
    assert abs(spearman(METRICS["pfp"](pairs, rng), difference)) > 0.99
    assert abs(spearman(scores, difference)) < 0.2
    assert scores.min() == 0
    assert scores.max() == 1


def test_every_metric_has_a_test():
    assert set(METRICS) == {*BY_HAND, "random"}


class Watched(dict):
    """Pairs that remember which of their columns were read."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("name", METRICS)
def test_who_reads_beta_or_the_reference_is_listed(name):
    """Others are given no β of config's, and are not refused where the policy is its own reference."""
    pairs = Watched(PAIRS)
    METRICS[name](pairs, np.random.default_rng(0))
    assert ("beta" in pairs.read) == (name in NEEDS_BETA), f"{name} in NEEDS_BETA, or not, against what it reads"
    assert ("logp_ref_chosen" in pairs.read) == (name in NEEDS_REFERENCE), f"{name} in NEEDS_REFERENCE, or not"


def test_ordered_pairs_drop_and_count_ties():
    pairs, ties = ordered_pairs([1.0, 3.0, 1.0])
    assert sorted(pairs) == [(1, 0), (1, 2)]
    assert ties == 1


def test_best_worst_pair_of_tied_responses_is_none():
    assert best_worst_pair([2.0, 2.0]) is None
    assert best_worst_pair([1.0, 5.0, 0.0, 5.0]) == (1, 2)


def test_keep_top_is_best_first_and_never_keeps_infinities():
    scores = np.array([1.0, -np.inf, 3.0, 1.0])
    kept = keep_top(scores, None, np.random.default_rng(0)).tolist()
    assert kept[0] == 2
    assert set(kept) == {0, 2, 3}
    assert len(keep_top(scores, 2, np.random.default_rng(0))) == 2


def test_chance_decides_between_equal_scores():
    """In round 1 policy and reference are one and all margins 0: the first of the file must not be the chosen ones."""
    first = [keep_top(np.zeros(100), 10, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert first[0].tolist() == first[1].tolist()
    assert first[0].tolist() != first[2].tolist()
    assert max(first[0]) > 50


def test_gap_filter_by_value_and_by_quantile():
    gaps = np.array([1.0, 2.0, 3.0, 4.0])
    kept = gap_filters(gaps, 2.0, 0.5)
    assert kept["min_gap"].tolist() == [False, True, True, True]
    assert kept["min_gap_quantile"].tolist() == [False, False, True, True]
    assert all(keep.all() for keep in gap_filters(gaps, None, None).values())


@pytest.fixture
def files(tmp_path):
    rewards = [("a", 0, 1.0), ("a", 1, 2.0), ("a", 2, 2.0), ("b", 0, 5.0), ("b", 1, 5.0)]
    where = [{"prompt_id": p, "cluster": 0, "response_id": r} for p, r, _ in rewards]
    write_rows(tmp_path / "rewards.jsonl", (w | {"reward": x} for w, (_, _, x) in zip(where, rewards, strict=True)))
    write_rows(tmp_path / "pfp.jsonl", (w | {"n_tokens": 3, "logp": -1.0, "logp_ref": -2.0} for w in where))
    return tmp_path


def test_pairs_of_files(files):
    groups = read_responses(files / "rewards.jsonl", files / "pfp.jsonl")
    pairs, ties = all_pairs(groups)
    assert [(p.chosen["response_id"], p.rejected["response_id"], p.best_worst) for p in pairs] == [
        (1, 0, True),
        (2, 0, False),
    ]
    assert ties == 2
    assert to_columns(pairs, 0.1)["reward_chosen"].tolist() == [2.0, 2.0]
    best, tied = best_worst_pairs(groups)
    assert len(best) == 1
    assert tied == 1


def test_a_response_without_log_probabilities_is_named(files):
    write_rows(
        files / "pfp.jsonl", [{"prompt_id": "a", "response_id": 0, "n_tokens": 3, "logp": -1.0, "logp_ref": -1.0}]
    )
    with pytest.raises(InputError, match="no row for prompt a, response 1"):
        read_responses(files / "rewards.jsonl", files / "pfp.jsonl")


def judged(*rows: tuple[int, float | None, list[int], list]) -> dict[str, list[dict]]:
    names = ("response_id", "reward", "beats", "judged")
    return {"a": [{"prompt_id": "a"} | dict(zip(names, row, strict=True)) for row in rows]}


def test_a_judge_s_preferences_are_its_own_verdicts():
    """0 beats 1 and 1 beats 2, but 0 against 2 was invalid: by reward 0 is above 2, and yet they make no pair."""
    groups = judged((0, 0.9, [1], [[1, 1.0, 0.8], [2, None, 1.0]]), (1, 0.35, [2], [[2, 0.7, 0.5]]), (2, 0.4, [], []))
    pairs, undecided = all_pairs(groups)
    assert [(p.chosen["response_id"], p.rejected["response_id"]) for p in pairs] == [(0, 1), (1, 2)]
    assert [p.chosen["reward"] for p in pairs] == pytest.approx([0.9, 0.6]), "of this pair, and not of all it met"
    assert [p.rejected["reward"] for p in pairs] == pytest.approx([0.1, 0.4])
    assert undecided == 1
    groups["a"][1]["reward"], groups["a"][2]["reward"] = 0.5, 0.1
    assert best_worst_pairs(groups) == ([], 1), "the best never validly met the worst"


def test_the_loser_of_a_verdict_may_hold_it():
    groups = judged((0, 0.1, [], [[1, 0.0, 0.2]]), (1, 0.9, [0], []))
    (pair,), _ = all_pairs(groups)
    assert pair.chosen["response_id"] == 1
    assert pair.chosen["reward"] == pytest.approx(0.9)


def test_a_response_without_a_valid_verdict_makes_no_pair():
    pairs, undecided = all_pairs(
        judged((0, None, [], [[1, None, None], [2, None, 0.0]]), (1, 1.0, [2], [[2, 1.0, 1.0]]), (2, 0.0, [], []))
    )
    assert [(p.chosen["response_id"], p.rejected["response_id"], p.best_worst) for p in pairs] == [(1, 2, True)]
    assert undecided == 2
    assert all_pairs(judged((0, None, [], [[1, None, 1.0]]), (1, None, [], []))) == ([], 1)


def test_under_best_worst_only_the_best_meets_the_worst():
    rows = [{"prompt_id": "a", "response_id": i, "reward": r, "sampler": "best_worst"} for i, r in enumerate([2, 3, 1])]
    pairs, tied = all_pairs({"a": rows})
    assert [(p.chosen["response_id"], p.rejected["response_id"]) for p in pairs] == [(1, 2)]
    assert tied == 0
