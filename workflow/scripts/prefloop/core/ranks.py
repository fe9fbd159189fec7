"""Ranks, rank correlation and confidence intervals as values."""

from typing import NamedTuple

import numpy as np
import pandas as pd


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def rank_normalize(values: np.ndarray) -> np.ndarray:
    """Ranks scaled to [0, 1]; ties share their mean rank, and a single value gets 0.5. Shape [n] in and out.

    Unlike min-max scaling, one extreme value cannot compress all others.
    """
    if len(values) <= 1:
        return np.full(len(values), 0.5)
    return (pd.Series(values).rank().to_numpy() - 1) / (len(values) - 1)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's ρ of `x` and `y`, both [n]: the correlation of their ranks; NaN if either is constant."""
    ranks_x, ranks_y = pd.Series(x).rank(), pd.Series(y).rank()
    if ranks_x.nunique() < 2 or ranks_y.nunique() < 2:
        return float("nan")
    return float(np.corrcoef(ranks_x, ranks_y)[0, 1])
