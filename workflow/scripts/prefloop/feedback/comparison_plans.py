"""Which pairs of a prompt's responses a judge compares: one plan per entry of COMPARISON_PLANS.

A plan is a generator. It yields the comparisons of a round, and receives the winner of each, None for a tie or an
invalid answer. It returns the best and the worst response if it looks for them. Responses are indices from 0.
"""

from collections.abc import Generator, Sequence
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np

Comparison = tuple[int, int]  # of two responses, the smaller index first
Winners = Sequence[int | None]
Plan = Generator[list[Comparison], Winners, tuple[int, int] | None]


class PlanFactory(Protocol):
    """Makes the plan of a prompt."""

    def __call__(self, responses: int, count: int, rng: np.random.Generator, /) -> Plan:
        """The plan for a number of responses; `count` is the number of pairs of `random_k`."""


class PairsToAsk(NamedTuple):
    """How many pairs of each prompt a judge compares, and where random numbers come from."""

    plan: str = "all"
    """Word of COMPARISON_PLANS."""
    random_pairs: int = 1
    """Pairs of `random_k`."""
    seed: int = 0
    stream: str = ""
    """Name of the round and step, which have random numbers of their own."""


def ask_all(responses: int, count: int, rng: np.random.Generator) -> Plan:
    """Every two responses."""
    yield list(combinations(range(responses), 2))
    return None


def ask_random(responses: int, count: int, rng: np.random.Generator) -> Plan:
    """`count` different pairs at random, or all if there are fewer."""
    pairs = list(combinations(range(responses), 2))
    chosen = rng.permutation(len(pairs))[:count].tolist()
    yield [pairs[i] for i in sorted(chosen)]
    return None


def ask_tournament(responses: int, count: int, rng: np.random.Generator) -> Plan:
    """Two knockouts that find the best and the worst with ⌈3n/2⌉ − 2 comparisons, and a last one between these two.

    The first round pairs the responses in a random order. Its winners play for the best, its losers for the worst, and
    a response without an opponent plays in both. A tie or an invalid answer counts as a win of the response that is
    earlier in this order. With a judge without contradictions, best and worst are those of all comparisons.

    Returns:
        The best and the worst; None if one response is both, or if there are fewer than two.
    """
    if responses < 2:
        return None
    order: list[int] = rng.permutation(responses).tolist()
    position = {response: i for i, response in enumerate(order)}
    asked: set[Comparison] = set()
    top, bottom, first_round = order, order, True
    while len(top) > 1 or len(bottom) > 1:
        of_top = adjacent(top)
        of_bottom = [] if first_round else adjacent(bottom)
        pairs = [(min(pair), max(pair)) for pair in of_top + of_bottom]
        asked |= set(pairs)
        winners = yield pairs
        results = [ordered(pair, winner, position) for pair, winner in zip(pairs, winners, strict=True)]
        lost = results if first_round else results[len(of_top) :]
        top = [winner for winner, _ in results[: len(of_top)]] + top[2 * len(of_top) :]
        bottom = [loser for _, loser in lost] + bottom[2 * len(lost) :]
        first_round = False
    best, worst = top[0], bottom[0]
    if best == worst:
        return None
    final = min(best, worst), max(best, worst)
    if final not in asked:
        yield [final]
    return best, worst


def adjacent(responses: Sequence[int]) -> list[Comparison]:
    """The first response with the second, the third with the fourth, and so on; the last of an odd number is left."""
    return list(zip(responses[::2], responses[1::2], strict=False))


def ordered(pair: Comparison, winner: int | None, position: dict[int, int]) -> Comparison:
    """(winner, loser) of a comparison; without a winner, the response with the smaller position wins."""
    first = min(pair, key=lambda response: position[response]) if winner is None else winner
    return first, pair[0] if first == pair[1] else pair[1]


COMPARISON_PLANS: dict[str, PlanFactory] = {
    "all": ask_all,
    "random_k": ask_random,
    "best_worst_tournament": ask_tournament,
}
