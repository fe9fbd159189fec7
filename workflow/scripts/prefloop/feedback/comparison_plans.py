"""Plans that choose the pairs of a prompt's responses that a judge compares: one per entry of COMPARISON_PLANS.

A plan is a generator. It yields the comparisons of a round and receives the winner of each, or None for a tie or an
invalid answer. A tournament returns the best and the worst response. Responses are indices from 0.
"""

from collections.abc import Generator, Sequence
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np

Comparison = tuple[int, int]  # of two responses, the smaller index first
Winners = Sequence[int | None]
Plan = Generator[list[Comparison], Winners, tuple[int, int] | None]


class PlanFactory(Protocol):
    """Creates the plan of a prompt."""

    def __call__(self, responses: int, count: int, rng: np.random.Generator, /) -> Plan:
        """The plan for a number of responses. `count` is the number of pairs for `random_k`."""


class PairsToAsk(NamedTuple):
    """Settings of comparison plans, and the seed of their random numbers."""

    plan: str = "all"
    """Key of COMPARISON_PLANS."""
    random_pairs: int = 1
    """Number of pairs for `random_k`."""
    seed: int = 0
    stream: str = ""
    """Name of the round and step. Each has its own random numbers."""


def ask_all(responses: int, count: int, rng: np.random.Generator) -> Plan:
    """All pairs of responses."""
    yield list(combinations(range(responses), 2))
    return None


def ask_random(responses: int, count: int, rng: np.random.Generator) -> Plan:
    """`count` different random pairs, or all pairs if there are fewer."""
    pairs = list(combinations(range(responses), 2))
    chosen = rng.permutation(len(pairs))[:count].tolist()
    yield [pairs[i] for i in sorted(chosen)]
    return None


def ask_tournament(responses: int, count: int, rng: np.random.Generator) -> Plan:
    """Two knockout tournaments that find the best and the worst response, and a comparison of these two.

    The tournaments need ⌈3n/2⌉ − 2 comparisons. The first round pairs the responses in a random order. Its winners
    compete for the best, its losers for the worst, and a response without an opponent competes in both. A tie or an
    invalid answer counts as a win of the response that is earlier in the random order. If the judge is consistent, the
    result is the same as that of all comparisons.

    Returns:
        The best and the worst response; None if they are the same, or if there are fewer than two responses.
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
    """Pairs of neighbors: the first and second response, the third and fourth, and so on, without an odd last one."""
    return list(zip(responses[::2], responses[1::2], strict=False))


def ordered(pair: Comparison, winner: int | None, position: dict[int, int]) -> Comparison:
    """(winner, loser) of a comparison. Without a winner, the response with the smaller position wins."""
    first = min(pair, key=lambda response: position[response]) if winner is None else winner
    return first, pair[0] if first == pair[1] else pair[1]


COMPARISON_PLANS: dict[str, PlanFactory] = {
    "all": ask_all,
    "random_k": ask_random,
    "best_worst_tournament": ask_tournament,
}
