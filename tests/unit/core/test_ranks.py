"""Ranks and rank correlation."""

import numpy as np
import pytest

from prefloop.core.ranks import rank_normalize, spearman


def test_ranks_are_between_0_and_1_and_ties_are_equal():
    assert rank_normalize(np.array([1e9, 2.0, 2.0, -5.0])).tolist() == pytest.approx([1, 0.5, 0.5, 0])
    assert rank_normalize(np.array([7.0])).tolist() == [0.5]


def test_spearman_depends_on_the_order_only():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert np.isnan(spearman(x, np.ones(4)))


def test_spearman_by_hand():
    """One swap among four values: 1 − 6·2/(4·15) = 0.8."""
    assert spearman(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])) == pytest.approx(0.8)
