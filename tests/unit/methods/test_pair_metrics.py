"""Pairs and the metrics that rank them, compared with hand-computed values."""

import numpy as np
import pytest

from prefloop.core.errors import InputError
from prefloop.core.ranks import spearman
from prefloop.methods.pair_metrics import (
    METRICS,
    NEEDS_BETA,
    NEEDS_ENSEMBLE,
    NEEDS_REFERENCE,
    best_worst_pair,
    keep_top,
    metric_scores,
    ordered_pairs,
    preference_variance,
    reads_variance,
)

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
    "preference_variance": np.array([0.04, 0.16]),
    "gap_deviation": np.array([0.5, 2.0]),
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
    "implicit_margin": [3.0, -1.0],
    "pvar": [0.04, 0.16],
    "disagreement": [0.5, 2.0],
    "agreement": [-0.5, -2.0],
    "less_is_more": [0.5, 0.5],  # the larger gap has the smaller margin: 0 and 1 in one pair, 1 and 0 in the other
    "alignment_potential": [-1.0, 1.0],  # z(gap) = ∓1; |mean log-probability margin| is 1 in both pairs
    "length_matched_pfp": [1.0, 0.0],  # two pairs are one stratum
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
    """Gaps and margins 0 to 40 are clipped to [2, 38]. Pair 11 has P = ¼ for both, which gives (1/16) / (10/16)."""
    steps = np.arange(41.0)
    pairs = {"reward_chosen": steps, "reward_rejected": 0 * steps, "logp_chosen": steps, "beta": np.array(0.1)}
    pairs |= {name: 0 * steps for name in ("logp_rejected", "logp_ref_chosen", "logp_ref_rejected")}
    scores = METRICS["less_is_more"](pairs, np.random.default_rng(0))
    assert scores[11] == pytest.approx(0.1)
    assert scores[:3].tolist() == [0, 0, 0]
    assert scores[-3:].tolist() == pytest.approx([1, 1, 1])
    flat = METRICS["less_is_more"](pairs | {"reward_chosen": 0 * steps}, np.random.default_rng(0))
    assert flat[11] == pytest.approx(0.25), "with equal gaps only the margin counts"


def test_length_matched_pfp_ranks_within_strata():
    """Here PFP is the length difference plus noise, so only the noise remains after matching for length."""
    rng = np.random.default_rng(0)
    difference, noise = rng.integers(-20, 21, 400).astype(float), rng.random(400)
    pairs = {"n_chosen": 30 + difference, "n_rejected": np.full(400, 30.0), "logp_rejected": 0 * noise}
    pairs["logp_chosen"] = -(10 * difference + noise)
    scores = METRICS["length_matched_pfp"](pairs, rng)
    assert abs(spearman(METRICS["pfp"](pairs, rng), difference)) > 0.99
    assert abs(spearman(scores, difference)) < 0.2
    assert scores.min() == 0
    assert scores.max() == 1


def test_preference_variance_covers_both_orders():
    """Both orders of 0.9 and 0.5 are 0.9, 0.1, 0.5, 0.5, with mean ½ and squared deviations 0.16, 0.16, 0, 0."""
    assert preference_variance([0.9, 0.5]) == pytest.approx(0.08)
    probabilities = np.random.default_rng(0).random(20)
    both = np.concatenate([probabilities, 1 - probabilities])
    assert preference_variance(probabilities) == pytest.approx(both.var())


def test_every_metric_has_a_test():
    assert set(METRICS) == {*BY_HAND, "random"}


class Watched(dict):
    """Pairs that record which columns were read."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_that_read_special_columns_are_listed(name):
    """Other metrics get no β, and are allowed even if the policy is its own reference."""
    pairs = Watched(PAIRS)
    METRICS[name](pairs, np.random.default_rng(0))
    assert ("beta" in pairs.read) == (name in NEEDS_BETA), f"{name}: NEEDS_BETA is wrong"
    assert ("logp_ref_chosen" in pairs.read) == (name in NEEDS_REFERENCE), f"{name}: NEEDS_REFERENCE is wrong"
    assert ("gap_deviation" in pairs.read) == (name in NEEDS_ENSEMBLE), f"{name}: NEEDS_ENSEMBLE is wrong"
    assert ("preference_variance" in pairs.read) == reads_variance(name), f"{name}: NEEDS_VARIANCE is wrong"


def test_user_functions_get_every_column():
    assert reads_variance("pvar") and reads_variance("metrics.py:mine") and not reads_variance("pfp")


def test_ordered_pairs_drop_and_count_ties():
    pairs, ties = ordered_pairs([1.0, 3.0, 1.0])
    assert sorted(pairs) == [(1, 0), (1, 2)]
    assert ties == 1


def test_best_worst_pair_of_tied_responses_is_none():
    assert best_worst_pair([2.0, 2.0]) is None
    assert best_worst_pair([1.0, 5.0, 0.0, 5.0]) == (1, 2)


def test_keep_top_sorts_by_score_and_drops_infinities():
    scores = np.array([1.0, -np.inf, 3.0, 1.0])
    kept = keep_top(scores, None, np.random.default_rng(0)).tolist()
    assert kept[0] == 2
    assert set(kept) == {0, 2, 3}
    assert len(keep_top(scores, 2, np.random.default_rng(0))) == 2


def test_equal_scores_are_ordered_at_random():
    """In round 1 policy and reference are equal and all margins are 0. The file order must not decide."""
    first = [keep_top(np.zeros(100), 10, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert first[0].tolist() == first[1].tolist()
    assert first[0].tolist() != first[2].tolist()
    assert max(first[0]) > 50


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("[1.0, 2.0]", None),
        ("[1.0, float('-inf')]", None),
        ("[1.0]", "returned .*, expected one number for each of 2 pairs"),
        ("[1.0, float('nan')]", "returned .*, expected one number for each of 2 pairs"),
        ("'ab'", "failed .ValueError"),
        ("pairs['absent']", "failed .KeyError: 'absent', in metrics.py, line 2"),
    ],
)
def test_metrics_of_the_user_are_checked(tmp_path, monkeypatch, body, problem):
    monkeypatch.chdir(tmp_path)
    name = f"{tmp_path.name}.py"
    (tmp_path / name).write_text(f"def worth(pairs, rng):\n    return {body}\n")
    pairs = {"n_chosen": np.array([3, 4])}
    if problem is None:
        assert metric_scores(f"{name}:worth", "pairs.metric", pairs, np.random.default_rng(0)).dtype == float
        return
    with pytest.raises(InputError, match=rf"pairs\.metric: .*:worth {problem.replace('metrics.py', name)}"):
        metric_scores(f"{name}:worth", "pairs.metric", pairs, np.random.default_rng(0))
