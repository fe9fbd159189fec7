"""The crossed random-effects model of a table seeds × prompts: mean squares, standard error, t interval and test.

The model is y_sp = μ + seed_s + prompt_p + residual_sp with independent effects of mean 0. Both new seeds and new
prompts are thus covered. Source: two-way crossed random-effects analysis of variance with Satterthwaite's degrees of
freedom (Searle, Casella, McCulloch 1992, "Variance Components", chapters 4 and 5).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from prefloop.core.ranks import Interval

NAN = float("nan")


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of a table without missing cells; NaN where the table has too few rows or columns for one.

    The expected values are r + prompts·s (seeds), r + seeds·p (prompts) and r (residual), where s, p and r are the
    variances of seed effects, prompt effects and residuals. If there is one sample per cell, r includes sampling.
    """

    seeds: int
    """Number of rows."""
    prompts: int
    """Number of columns: prompts, or families of prompts."""
    mean: float
    of_seeds: float
    of_prompts: float
    residual: float

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
    """A mean with its standard error and degrees of freedom; both are NaN where a table has a single value."""

    mean: float
    standard_error: float
    degrees_of_freedom: float

    def interval(self, level: float = 0.95) -> Interval:
        """The two-sided t interval; it has no length if the standard error is 0."""
        if self.standard_error == 0:
            return Interval(self.mean, self.mean, self.mean)
        half = self.standard_error * float(stdtrit(self.degrees_of_freedom, (1 + level) / 2))
        return Interval(self.mean, self.mean - half, self.mean + half)

    @property
    def p_value(self) -> float:
        """Two-sided p of the hypothesis that the mean is 0; 1 if all values are 0."""
        if self.standard_error == 0:
            return float(self.mean == 0)
        return float(2 * stdtr(self.degrees_of_freedom, -abs(self.mean) / self.standard_error))


def mean_squares(table: np.ndarray) -> MeanSquares:
    """Mean squares of `table` [seeds, prompts], whose cells are all finite; one row or one column is allowed."""
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
    """The mean over new seeds and new prompts.

    Var(mean) = (max(MS_s, MS_r) + max(MS_p, MS_r) − MS_r) / (seeds · prompts), with Satterthwaite's degrees of freedom.
    A mean square below the residual's is replaced by it, so that chance cannot make the variance smaller than that of
    the residuals alone. With one seed the interval covers new prompts only, and with one prompt new seeds only.
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
    """A table without missing cells that has the mean of the valid `values` and, to first order, its variance.

    The mean of valid values is a ratio, sum over count. Its linearization replaces a valid cell by
    m + (y − m)·cells/valid and a missing one by the mean m. It needs no assumption but that cells are missing
    independently of their values. Families of prompts are clusters: a column is then the sum of its prompts' deviations
    from m, scaled so that the mean stays the mean over prompts. This is the cluster-robust (sandwich) estimate
    of the variance of a mean.

    Args:
        values: [seeds, prompts], NaN where invalid. Seeds and prompts without a valid value are left out.
        families: The family of each prompt, [prompts]; None if every prompt is its own.

    Returns:
        [seeds, prompts] or [seeds, families] without those left out; [0, 0] if no value is valid.
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
    """The mean of the valid `values` [seeds, prompts]; NaN if there is none. Arguments as for `complete_table`."""
    table = complete_table(np.atleast_2d(np.asarray(values, dtype=float)), families)
    return estimate_mean(mean_squares(table)) if table.size else MeanEstimate(NAN, NAN, NAN)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's corrected p-values [contrasts], in the order given (Holm 1979); NaN stays NaN and is not counted."""
    p_values = np.asarray(p_values, dtype=float)
    corrected = np.full(len(p_values), NAN)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]
    scaled = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected
