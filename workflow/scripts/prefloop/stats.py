"""Ranks, correlations and bootstrap intervals, from rows and nothing else."""

from typing import NamedTuple

import numpy as np
import pandas as pd


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def rank_normalise(values: np.ndarray) -> np.ndarray:
    """Ranks scaled to [0, 1], ties at their mean rank; one value alone gets ½. Shape [n] in and out.

    Unlike min–max scaling, one extreme value cannot press all others together.
    """
    if len(values) <= 1:
        return np.full(len(values), 0.5)
    return (pd.Series(values).rank().to_numpy() - 1) / (len(values) - 1)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's ρ: Pearson's correlation of the ranks; NaN where either side is constant. Shapes [n]."""
    ranks_x, ranks_y = pd.Series(x).rank(), pd.Series(y).rank()
    if ranks_x.nunique() < 2 or ranks_y.nunique() < 2:
        return float("nan")
    return float(np.corrcoef(ranks_x, ranks_y)[0, 1])


def bootstrap_mean(
    values: np.ndarray, rng: np.random.Generator, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of `values` [seeds, prompts] and its percentile bootstrap interval; NaN marks an invalid verdict.

    Prompts are resampled jointly for all seeds (the seeds answered the same prompts); with more than one
    seed, seeds are resampled too, so that the interval speaks of new seeds and new prompts.
    """
    values = np.atleast_2d(np.asarray(values, dtype=float))
    seeds, prompts = values.shape
    if not np.isfinite(values).any():
        return Interval(float("nan"), float("nan"), float("nan"))
    means = []
    for _ in range(resamples):
        drawn = values[:, rng.integers(prompts, size=prompts)]
        drawn = drawn[rng.integers(seeds, size=seeds)] if seeds > 1 else drawn
        valid = drawn[np.isfinite(drawn)]
        means.append(valid.mean() if len(valid) else np.nan)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.nanmean(values)), float(low), float(high))
