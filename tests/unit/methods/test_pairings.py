"""Pairings choose one pair of a prompt's responses for training."""

import numpy as np
import pytest

from prefloop.methods.pairings import MIN_RESPONSES, PAIRINGS, SWEET_SPOT_DRAWN, sweet_spot


def test_sweet_spot_pairs_the_best_with_the_worst_of_the_drawn():
    rewards = [3.0, 9.0, 1.0, 5.0, 7.0, 2.0, 8.0, 4.0, 6.0, 0.0]
    for seed in range(20):
        drawn = np.random.default_rng(seed).choice(10, size=5, replace=False)
        worst = drawn[np.argmin(np.array(rewards)[drawn])]
        assert sweet_spot(rewards, np.random.default_rng(seed)) == (1, worst)


def test_sweet_spot_rejects_the_worst_of_all_in_half_of_the_draws():
    """5 of 10 responses are drawn. The second worst is the worst drawn one with probability 5/10 · 5/9."""
    rng, rewards = np.random.default_rng(0), list(map(float, range(10)))
    rejected = [sweet_spot(rewards, rng)[1] for _ in range(4000)]
    assert rejected.count(0) / 4000 == pytest.approx(0.5, abs=0.03)
    assert rejected.count(1) / 4000 == pytest.approx(25 / 90, abs=0.03)
    assert max(rejected) == 5, "the best possible rejected response, if 5 to 9 are drawn"


def test_sweet_spot_of_tied_responses_is_none():
    assert sweet_spot([1.0] * 8, np.random.default_rng(0)) is None
    nearly = [sweet_spot([1.0] * 11 + [0.0], np.random.default_rng(seed)) for seed in range(30)]
    assert set(nearly) == {None, (0, 11)}, "no pair if all drawn responses tie with the best"


def test_sweet_spot_needs_more_responses_than_it_draws():
    assert MIN_RESPONSES["sweet_spot"] > SWEET_SPOT_DRAWN
    assert MIN_RESPONSES.keys() <= PAIRINGS.keys()
