"""The crossed random-effects model of a table seeds × prompts: mean squares, standard error, t interval and test.

The model is y_sp = μ + seed_s + prompt_p + residual_sp with independent effects of mean 0. Its intervals hold for new
seeds and new prompts. Source: two-way crossed random-effects analysis of variance with Satterthwaite's degrees of
freedom (Searle, Casella, McCulloch 1992, "Variance Components", chapters 4 and 5).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from prefloop.core.ranks import Interval

NAN = float("nan")


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of a table without missing cells; NaN if the table has too few rows or columns for one.

    The expected values are r + prompts·s (seeds), r + seeds·p (prompts) and r (residual), where s, p and r are the
    variances of seed effects, prompt effects and residuals. r includes the variance of sampling.
    """

    seeds: int
    """Number of rows."""
    prompts: int
    """Number of columns: prompts, or families of prompts."""
    mean: float
    """Mean of all cells."""
    of_seeds: float
    """Mean square of seeds."""
    of_prompts: float
    """Mean square of prompts."""
    residual: float
    """Mean square of the residuals."""

    @property
    def seed_variance(self) -> float:
        """Variance of seed effects, at least 0; NaN for one seed."""
        return max((self.of_seeds - self.residual) / self.prompts, 0.0)

    @property
    def prompt_variance(self) -> float:
        """Variance of prompt effects, at least 0; for one seed it includes the residual."""
        if self.seeds == 1:
            return self.of_prompts
        return max((self.of_prompts - self.residual) / self.seeds, 0.0)


@dataclass(frozen=True)
class MeanEstimate:
    """A mean with its standard error and degrees of freedom; both are NaN if the table has a single value."""

    mean: float
    standard_error: float
    degrees_of_freedom: float

    def interval(self, level: float = 0.95) -> Interval:
        """The two-sided t interval; its length is 0 if the standard error is 0."""
        if self.standard_error == 0:
            return Interval(self.mean, self.mean, self.mean)
        half = self.standard_error * float(stdtrit(self.degrees_of_freedom, (1 + level) / 2))
        return Interval(self.mean, self.mean - half, self.mean + half)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the hypothesis that the mean is 0; 1 if all values are 0."""
        if self.standard_error == 0:
            return float(self.mean == 0)
        return float(2 * stdtr(self.degrees_of_freedom, -abs(self.mean) / self.standard_error))


def mean_squares(table: np.ndarray) -> MeanSquares:
    """Mean squares of `table` [seeds, prompts]. All cells must be finite. One row or one column is allowed."""
    seeds, prompts = table.shape
    mean = table.mean()
    by_seed, by_prompt = table.mean(axis=1) - mean, table.mean(axis=0) - mean
    residuals = table - mean - by_seed[:, None] - by_prompt
    return MeanSquares(
        seeds,
        prompts,
        float(mean),
        ratio(prompts * float((by_seed**2).sum()), seeds - 1),
        ratio(seeds * float((by_prompt**2).sum()), prompts - 1),
        ratio(float((residuals**2).sum()), (seeds - 1) * (prompts - 1)),
    )


def ratio(sum_of_squares: float, degrees_of_freedom: int) -> float:
    """The mean square; NaN without degrees of freedom."""
    return sum_of_squares / degrees_of_freedom if degrees_of_freedom else NAN


def estimate_mean(squares: MeanSquares) -> MeanEstimate:
    """The estimate of the mean over new seeds and new prompts.

    Var(mean) = (max(MS_s, MS_r) + max(MS_p, MS_r) − MS_r) / (seeds · prompts), with Satterthwaite's degrees of freedom.
    A mean square below that of the residuals is replaced by the latter, so that the variance is never smaller than that
    from the residuals alone. With one seed, the interval accounts for new prompts only; with one prompt, for new seeds
    only.
    """
    seeds, prompts, residual = squares.seeds, squares.prompts, squares.residual
    if seeds == 1 or prompts == 1:
        terms = [(1, squares.of_prompts, prompts - 1) if seeds == 1 else (1, squares.of_seeds, seeds - 1)]
    else:
        larger = [(squares.of_seeds, seeds - 1), (squares.of_prompts, prompts - 1)]
        terms = [(1, square, freedom) for square, freedom in larger if square > residual]
        terms.append((1 - len(terms), residual, (seeds - 1) * (prompts - 1)))
    total = sum(weight * square for weight, square, _ in terms)
    spread = sum((weight * square) ** 2 / freedom if freedom else NAN for weight, square, freedom in terms)
    freedom = total**2 / spread if spread else NAN
    return MeanEstimate(squares.mean, float(np.sqrt(total / (seeds * prompts))), freedom)


def complete_table(values: np.ndarray, families: np.ndarray | None = None) -> np.ndarray:
    """Fill missing cells so that the mean is that of the valid `values` and its variance correct to first order.

    The mean of the valid values is a ratio, their sum divided by their count. Its linearization replaces a valid cell
    by m + (y − m)·cells/valid and a missing cell by the mean m. It assumes only that cells are missing independently of
    their values. With families, a column is the sum of the deviations of its prompts from m, scaled so that the mean
    remains the mean over prompts. This is the cluster-robust (sandwich) estimate of the variance of a mean.

    Args:
        values: [seeds, prompts], NaN where invalid. Seeds and prompts without a valid value are left out.
        families: The family of each prompt, [prompts]; None if every prompt is its own cluster.

    Returns:
        [seeds, prompts] or [seeds, families], without those left out; empty if no value is valid.
    """
    valid = np.isfinite(values)
    rows, columns = valid.any(axis=1), valid.any(axis=0)
    values, valid = values[rows][:, columns], valid[rows][:, columns]
    if not values.size or (families is None and valid.all()):
        return values
    mean = values[valid].mean()
    deviations = np.where(valid, values - mean, 0.0)
    if families is not None:
        _, index = np.unique(np.asarray(families)[columns], return_inverse=True)
        deviations = deviations @ np.eye(index.max() + 1)[index]
    return mean + deviations * (deviations.size / valid.sum())


def crossed_mean(values: np.ndarray, families: np.ndarray | None = None) -> MeanEstimate:
    """The mean of the valid `values` [seeds, prompts]; NaN if there is none. `families` as in `complete_table`."""
    table = complete_table(np.atleast_2d(np.asarray(values, dtype=float)), families)
    return estimate_mean(mean_squares(table)) if table.size else MeanEstimate(NAN, NAN, NAN)


def holm(p_values: ArrayLike) -> np.ndarray:
    """P-values [contrasts] with Holm's correction (Holm 1979), in the given order. NaN stays NaN and is not counted."""
    values = np.asarray(p_values, dtype=float)
    corrected = np.full(len(values), NAN)
    order = np.argsort(values)[: np.isfinite(values).sum()]
    scaled = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected
