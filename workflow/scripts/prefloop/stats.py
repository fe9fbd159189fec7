"""Ranks, their correlation, and what an interval is."""

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
