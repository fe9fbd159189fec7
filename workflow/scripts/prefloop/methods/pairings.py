"""Pairings: rules that choose one training pair of a prompt. Without a pairing, every two responses form a pair."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

SWEET_SPOT_DRAWN = 5  # number of random responses from which sweet_spot takes the worst
MIN_RESPONSES = {"sweet_spot": 8}  # with fewer, the random draw has almost all responses


class Pairing(Protocol):
    """Chooses a pair of a prompt's responses."""

    def __call__(self, rewards: Sequence[float], rng: np.random.Generator, /) -> tuple[int, int] | None:
        """Indices (chosen, rejected) for responses with these rewards [n]; None if both have the same reward."""


def sweet_spot(rewards: Sequence[float], rng: np.random.Generator) -> tuple[int, int] | None:
    """The best of all responses and the worst of five random ones (arXiv 2502.16825).

    With many responses, the worst of all is an outlier, which is less useful for training.
    """
    best = max(range(len(rewards)), key=lambda i: rewards[i])
    drawn = rng.choice(len(rewards), size=min(SWEET_SPOT_DRAWN, len(rewards)), replace=False)
    worst = min(drawn.tolist(), key=lambda i: rewards[i])
    return (best, worst) if rewards[best] > rewards[worst] else None


PAIRINGS: dict[str, Pairing] = {"sweet_spot": sweet_spot}
