"""Ranks, correlations and intervals."""

import numpy as np
import pytest

from prefloop.intervals import mean_interval
from prefloop.stats import rank_normalise, spearman


def test_ranks_are_between_0_and_1_and_ties_share_theirs():
    assert rank_normalise(np.array([1e9, 2.0, 2.0, -5.0])).tolist() == pytest.approx([1, 0.5, 0.5, 0])
    assert rank_normalise(np.array([7.0])).tolist() == [0.5]


def test_spearman_sees_order_only():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert np.isnan(spearman(x, np.ones(4)))


def test_spearman_by_hand():
    """One swap among four: 1 − 6·2/(4·15) = .8."""
    assert spearman(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])) == pytest.approx(0.8)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        interval = mean_interval(rng.normal(3, 1, (1, 60)), rng, resamples=400)
        covered += interval.low <= 3 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_several_seeds_widen_the_interval_when_runs_differ():
    rng = np.random.default_rng(0)
    same = rng.normal(0, 1, (1, 100)).repeat(3, axis=0)
    shifted = same + np.array([[-1.0], [0.0], [1.0]])
    narrow, wide = (mean_interval(x, np.random.default_rng(1)) for x in (same, shifted))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_invalid_verdicts_do_not_count():
    interval = mean_interval(np.array([[1.0, np.nan, 0.0]]), np.random.default_rng(0))
    assert interval.mean == 0.5
