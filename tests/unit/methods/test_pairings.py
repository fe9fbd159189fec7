"""Pairings: which one pair of a prompt's responses may be trained on."""

import numpy as np
import pytest

from prefloop.methods.pairings import MIN_RESPONSES, PAIRINGS, SWEET_SPOT_DRAWN, sweet_spot


def test_sweet_spot_is_the_best_against_the_worst_of_those_drawn():
    rewards = [3.0, 9.0, 1.0, 5.0, 7.0, 2.0, 8.0, 4.0, 6.0, 0.0]
    for seed in range(20):
        drawn = np.random.default_rng(seed).choice(10, size=5, replace=False)
        worst = drawn[np.argmin(np.array(rewards)[drawn])]
        assert sweet_spot(rewards, np.random.default_rng(seed)) == (1, worst)


def test_sweet_spot_takes_the_worst_of_all_in_half_of_the_draws():
    """5 of 10 responses are drawn; the second worst is the worst of those drawn with probability 5/10 · 5/9."""
    rng, rewards = np.random.default_rng(0), list(map(float, range(10)))
    rejected = [sweet_spot(rewards, rng)[1] for _ in range(4000)]
    assert rejected.count(0) / 4000 == pytest.approx(0.5, abs=0.03)
    assert rejected.count(1) / 4000 == pytest.approx(25 / 90, abs=0.03)
    assert max(rejected) == 5, "the best of the worst: 5 to 9 were drawn"


def test_sweet_spot_of_tied_responses_is_none():
    assert sweet_spot([1.0] * 8, np.random.default_rng(0)) is None
    nearly = [sweet_spot([1.0] * 11 + [0.0], np.random.default_rng(seed)) for seed in range(30)]
    assert set(nearly) == {None, (0, 11)}, "no pair where only responses as good as the best are drawn"


@pytest.mark.parametrize("name", PAIRINGS)
def test_every_pairing_draws_from_enough_responses(name):
    assert MIN_RESPONSES[name] > SWEET_SPOT_DRAWN
