"""Plans that choose a judge's comparisons: hand-computed examples and general properties."""

import math
from itertools import combinations

import numpy as np
import pytest

from prefloop.feedback.comparison_plans import COMPARISON_PLANS, ask_random, ask_tournament


class SameOrder:
    """A random generator whose permutations keep the order."""

    def permutation(self, count: int) -> np.ndarray:
        return np.arange(count)


def play(plan, winner_of) -> tuple[list[list[tuple[int, int]]], tuple[int, int] | None]:
    """Return the rounds of a plan, and the plan's return value."""
    rounds = []
    try:
        pairs = next(plan)
        while True:
            rounds.append(pairs)
            pairs = plan.send([winner_of(*pair) for pair in pairs])
    except StopIteration as end:
        return rounds, end.value


def test_tournament_of_four_by_hand():
    """1 and 2 win the first round and 2 wins the final. 0 loses to 3 and is the worst. Then 2 and 0 are compared."""
    strength = [0, 2, 3, 1]
    rounds, found = play(ask_tournament(4, 1, SameOrder()), lambda a, b: a if strength[a] > strength[b] else b)
    assert rounds == [[(0, 1), (2, 3)], [(1, 2), (0, 3)], [(0, 2)]]
    assert found == (2, 0)


def test_ties_count_as_wins_of_the_earlier_response():
    rounds, found = play(ask_tournament(5, 1, SameOrder()), lambda a, b: None)
    assert rounds[0] == [(0, 1), (2, 3)]
    assert rounds[1] == [(0, 2), (1, 3)], "4 has no opponent and waits in both brackets"
    assert rounds[2:] == [[(0, 4), (3, 4)]]
    assert found == (0, 4), "they have been compared"


def test_response_that_is_both_best_and_worst_is_neither():
    """2 has no opponent in the first round, then beats the winner 0 and loses to the loser 1."""
    winner = {(0, 1): 0, (0, 2): 2, (1, 2): 1}
    assert play(ask_tournament(3, 1, SameOrder()), lambda a, b: winner[a, b])[1] is None


@pytest.mark.parametrize("responses", range(2, 18))
def test_tournament_finds_best_and_worst_with_few_comparisons(responses):
    for seed in range(20):
        rng = np.random.default_rng([seed, responses])
        strength = rng.permutation(responses)
        rounds, found = play(ask_tournament(responses, 1, rng), lambda a, b, s=strength: a if s[a] > s[b] else b)
        pairs = [pair for pairs in rounds for pair in pairs]
        assert found == (strength.argmax(), strength.argmin())
        assert len(pairs) == len(set(pairs)), "no pair is asked twice"
        assert all(a < b for a, b in pairs)
        assert tuple(sorted(found)) in pairs
        assert len(pairs) - math.ceil(3 * responses / 2) + 2 in (0, 1)


@pytest.mark.parametrize("plan", COMPARISON_PLANS)
def test_single_response_is_not_compared(plan):
    rounds, found = play(COMPARISON_PLANS[plan](1, 2, np.random.default_rng(0)), lambda a, b: a)
    assert sum(rounds, []) == []
    assert found is None


def test_random_pairs_are_different_and_uniform():
    drawn = [play(ask_random(4, 2, np.random.default_rng(seed)), lambda a, b: a)[0][0] for seed in range(600)]
    assert all(len(set(pairs)) == 2 and pairs == sorted(pairs) for pairs in drawn)
    counts = [sum(pair in pairs for pairs in drawn) for pair in combinations(range(4), 2)]
    assert np.allclose(counts, 200, atol=50), "each of the six pairs is in a third of the draws"


def test_plan_all_has_every_pair_in_order():
    rounds, found = play(COMPARISON_PLANS["all"](3, 1, np.random.default_rng(0)), lambda a, b: a)
    assert (rounds, found) == ([[(0, 1), (0, 2), (1, 2)]], None)
