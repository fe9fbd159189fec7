"""Rank correlations with intervals for grouped rows, such as the pairs of one prompt."""

from typing import NamedTuple

import numpy as np

from prefloop.core.ranks import Interval
from prefloop.evaluation.inference import percentiles

AT_ONCE = 4_000_000  # largest size of an array [resamples, rows]; more resamples are computed in parts


class Resampled(NamedTuple):
    """A statistic of the rows and of each of their resamples."""

    estimate: float
    resamples: np.ndarray

    @property
    def interval(self) -> Interval:
        """The estimate with its 95 % interval; all NaN if the estimate is undefined."""
        if not np.isfinite(self.estimate):
            return Interval(float("nan"), float("nan"), float("nan"))
        return percentiles(self.estimate, self.resamples, 0.95)

    def __str__(self) -> str:
        mean, low, high = self.interval
        return f"= {mean:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(mean) else "is undefined"


class Draws(NamedTuple):
    """Resamples of whole groups of rows, with replacement."""

    of_group: np.ndarray
    """How often each resample draws each group, [resamples, groups]."""
    group: np.ndarray
    """The group of each row, [rows]."""


def group_draws(groups: np.ndarray, rng: np.random.Generator, resamples: int = 2000) -> Draws:
    """Resamples of whole `groups` [rows]: rows are dependent, so resampling single rows gives too narrow intervals."""
    names, group = np.unique(groups, return_inverse=True)
    return Draws(rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples), group)


def spearman_resampled(x: np.ndarray, y: np.ndarray, draws: Draws) -> Resampled:
    """Spearman's ρ of x and y [rows], and of every resample, whose ranks are computed again."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    parts = np.array_split(draws.of_group, len(draws.of_group) * len(x) // AT_ONCE + 1)
    resampled = [weighted_spearman(x, y, part[:, draws.group].astype(float)) for part in parts if len(part)]
    return Resampled(float(weighted_spearman(x, y, np.ones((1, len(x))))[0]), np.concatenate(resampled))


def weighted_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean ranks [resamples, rows] of `values` [rows], each repeated `counts` [resamples, rows] times."""
    distinct, index = np.unique(values, return_inverse=True)
    order = np.argsort(index, kind="stable")
    of_value = np.add.reduceat(counts[:, order], np.searchsorted(index[order], range(len(distinct))), axis=1)
    return (of_value.cumsum(axis=1) - of_value / 2)[:, index]


def weighted_spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's ρ [resamples] of x and y [rows], each row repeated `counts` [resamples, rows] times.

    It is NaN where x or y is constant. If all counts are 1, it equals `ranks.spearman`.
    """
    total = counts.sum(axis=1, keepdims=True)
    centred = []
    for values in (x, y):
        ranks = weighted_ranks(values, counts)
        centred.append(ranks - (counts * ranks).sum(axis=1, keepdims=True) / total)
    a, b = centred
    products, squares_a, squares_b = ((counts * product).sum(axis=1) for product in (a * b, a * a, b * b))
    spread = np.sqrt(squares_a * squares_b)
    return np.divide(products, spread, out=np.full(len(counts), np.nan), where=spread > 1e-9 * total[:, 0])


def partial(xy: np.ndarray, xz: np.ndarray, yz: np.ndarray) -> np.ndarray:
    """The partial correlation of x and y given z, from three correlations; NaN where z determines x or y."""
    rest = (1 - xz**2) * (1 - yz**2)
    return np.divide(xy - xz * yz, np.sqrt(rest), out=np.full(np.shape(xy), np.nan), where=rest > 1e-12)
