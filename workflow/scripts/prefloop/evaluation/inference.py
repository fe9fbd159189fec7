"""Confidence intervals of means, paired differences, length-controlled win rates and the cost of reaching a reward.

Values are [seeds, prompts] with the same prompts in every row. NaN marks an invalid judgment and is left out. Values
are an array, or a frame. If the columns of a frame have a level `family`, the prompts of a family form a cluster.

Means and paired differences have intervals from the crossed random-effects model (`random_effects`). A win rate of one
seed has Wilson's interval. Length-controlled win rates and costs have percentile bootstrap intervals: a resample draws
prompts (or families) with replacement, the same ones for all seeds, and also seeds if there are several. With one seed,
intervals account for new prompts but not for new seeds.

Without `rng`, all resamples with the same numbers of prompts and seeds use the same draws. So the same rows have the
same interval in every table and figure, and resampling does not add to the differences between intervals.
"""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri

from prefloop.config.evaluator_measures import is_rate
from prefloop.core.ranks import Interval
from prefloop.core.seeds import rng_for
from prefloop.evaluation.random_effects import MeanEstimate, crossed_mean

RIDGE = 1e-3  # the log-likelihood, a sum over comparisons, gets the penalty ½·RIDGE·(intercept² + slope²)
NEWTON_STEPS = 50
ROUNDING = 1e-12  # a mean difference below this fraction of the values is a rounding error
CHUNKS = 16  # the regressions of resamples are fitted in this many groups, to save memory

Name = TypeVar("Name", bound=Hashable)
PromptTable = np.ndarray | pd.DataFrame  # [seeds, prompts]


class CostToReach(NamedTuple):
    """The cost of reaching a target, with the ends of its interval; infinite if the target is not reached."""

    cost: float
    low: float
    high: float
    reached: float
    """Fraction of the resamples that reach the target."""


def resample_counts(
    seeds: int,
    prompts: int,
    rng: np.random.Generator | None = None,
    resamples: int = 2000,
    families: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """How often each resample draws each seed [resamples, seeds] and each prompt [resamples, prompts].

    With `families` [prompts], whole families are drawn, so the number of prompts may differ between resamples.
    """
    rng = rng_for(0, "interval") if rng is None else rng
    index = np.arange(prompts) if families is None else np.unique(families, return_inverse=True)[1]
    groups = int(index.max()) + 1
    # Prompts are drawn first: a policy with equal judgments in all seeds then has the same interval as with one seed.
    of_groups = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    of_prompts = of_groups[:, index].astype(float)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(float)
    return of_seeds, of_prompts


def weighted_means(values: np.ndarray, of_seeds: np.ndarray, of_prompts: np.ndarray) -> np.ndarray:
    """Means [resamples] of the valid `values` [seeds, prompts]; NaN if none is drawn.

    Weights are the products of `of_seeds` [resamples, seeds] and `of_prompts` [resamples, prompts].
    """
    valid = np.isfinite(values)
    sums = ((of_prompts @ np.where(valid, values, 0).T) * of_seeds).sum(axis=1)
    counts = ((of_prompts @ valid.T.astype(float)) * of_seeds).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def families_of(values: PromptTable) -> np.ndarray | None:
    """The family of each prompt [prompts]; None if there is no level `family`, or fewer than two families.

    A single family does not show how families vary, so its prompts are treated as independent.
    """
    if not isinstance(values, pd.DataFrame) or "family" not in values.columns.names:
        return None
    families = values.columns.get_level_values("family").to_numpy()
    return families if len(set(families)) > 1 else None


def subtract(a: PromptTable, b: PromptTable) -> PromptTable:
    """a − b, for the same prompts in the same order. A side with one seed is compared with all seeds of the other."""
    difference = np.atleast_2d(np.asarray(a, dtype=float)) - np.atleast_2d(np.asarray(b, dtype=float))
    return pd.DataFrame(difference, columns=a.columns) if isinstance(a, pd.DataFrame) else difference


def mean_estimate(values: PromptTable) -> MeanEstimate:
    """The mean of `values` [seeds, prompts] with its standard error and degrees of freedom."""
    return crossed_mean(np.asarray(values, dtype=float), families_of(values))


def mean_interval(values: PromptTable, level: float = 0.95) -> Interval:
    """The mean of `values` [seeds, prompts] with its crossed random-effects interval; NaN if no value is valid.

    The ends are NaN if there is only one value. `benchmarks/coverage.py` measures the interval's coverage.
    """
    return mean_estimate(values).interval(level)


def rate_interval(wins: PromptTable, level: float = 0.95) -> Interval:
    """The mean of `wins` [seeds, prompts], scores of 1, ½ (tie) and 0, with its interval; NaN if none is valid.

    One seed has Wilson's interval. Several seeds have the interval of `mean_interval`, clipped to [0, 1]. If all seeds
    have the same scores, such as those of the initial policy, they count as one seed.
    """
    rows = np.atleast_2d(np.asarray(wins, dtype=float))
    if all(np.array_equal(row, rows[0], equal_nan=True) for row in rows):
        return wilson(rows[0], families_of(wins), level)
    mean, low, high = mean_interval(wins, level)
    return Interval(mean, float(np.maximum(low, 0)), float(np.minimum(high, 1)))


def wilson(scores: np.ndarray, families: np.ndarray | None = None, level: float = 0.95) -> Interval:
    """Wilson's score interval of the mean of `scores` [prompts]: 1, ½ (tie) or 0, and NaN where invalid.

    The interval contains all μ for which (mean − μ)² ≤ z²·(μ(1 − μ) − t/4)/n, because μ(1 − μ) − t/4 is the variance
    of a score that is ½ with probability t. Without ties it is Wilson's interval. t is the share of ties times
    n/(n + z²). The share alone would give a far too short interval if almost all scores are ties.
    With families, n is divided by the design effect, the ratio of the clustered to the unclustered variance, if that
    exceeds 1. Sources: Wilson 1927; Korn and Graubard 1998 for the effective n.
    """
    valid = scores[np.isfinite(scores)]
    if not len(valid):
        return Interval(float("nan"), float("nan"), float("nan"))
    mean, n = float(valid.mean()), float(len(valid))
    if families is not None and (plain := crossed_mean(scores).standard_error) > 0:
        n /= max(1.0, (crossed_mean(scores, families).standard_error / plain) ** 2)
    c = float(ndtri((1 + level) / 2)) ** 2 / n
    ties = float((valid == 0.5).mean()) / (1 + c)
    half = np.sqrt(max(c * (4 * mean * (1 - mean) - ties) + c**2 * (1 - ties), 0.0)) / 2
    low, high = ((mean + c / 2 + sign * half) / (1 + c) for sign in (-1, 1))
    # If all scores are equal, the mean is an end of the interval; rounding must not exclude it.
    return Interval(mean, float(min(max(low, 0.0), mean)), float(max(min(high, 1.0), mean)))


def interval_of(measure: str, values: PromptTable) -> Interval:
    """The 95 % interval of a measure's mean: `rate_interval` for win rates, `mean_interval` for other measures."""
    return rate_interval(values) if is_rate(measure) else mean_interval(values)


def bootstrap_mean(
    values: np.ndarray,
    rng: np.random.Generator | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    families: np.ndarray | None = None,
) -> Interval:
    """The mean of `values` [seeds, prompts] with its percentile bootstrap interval; NaN if no value is valid.

    Its coverage is too low with a few seeds that differ (`benchmarks/coverage.py`). With one seed it is as good as that
    of the other intervals.
    """
    values = np.atleast_2d(np.asarray(values, dtype=float))
    if not np.isfinite(values).any():
        return Interval(float("nan"), float("nan"), float("nan"))
    means = weighted_means(values, *resample_counts(values.shape[0], values.shape[1], rng, resamples, families))
    return percentiles(float(np.nanmean(values)), means, level)


def percentiles(estimate: float, resampled: np.ndarray, level: float) -> Interval:
    """The estimate with the percentiles of its resamples; resamples without a valid value (NaN) are left out."""
    low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def paired_estimate(a: PromptTable, b: PromptTable) -> MeanEstimate:
    """`mean_estimate` of a − b, both [seeds, prompts]. A side with one seed is compared with all seeds of the other.

    Effects of a prompt that are the same on both sides cancel. A value that is invalid on one side is left out on both.
    """
    estimate = mean_estimate(subtract(a, b))
    return replace(estimate, mean=float(exact_zeros(estimate.mean, a, b)))


def exact_zeros(means: ArrayLike, a: PromptTable, b: PromptTable) -> np.ndarray:
    """The means of a − b, where those that are only rounding errors are 0, so that equal methods have no difference."""
    largest = [
        np.abs(values[np.isfinite(values)]).max(initial=0) for values in (np.asarray(a, float), np.asarray(b, float))
    ]
    return np.where(np.abs(means) <= ROUNDING * max(largest), 0.0, means)


def paired_difference(a: PromptTable, b: PromptTable, level: float = 0.95) -> Interval:
    """The mean of a − b with its interval, from `paired_estimate`."""
    return paired_estimate(a, b).interval(level)


def best(values: Mapping[Name, PromptTable], level: float = 0.95) -> Name | None:
    """The name whose values [seeds, prompts] are significantly larger than those of every other name, or None.

    The intervals of all its paired differences, with Bonferroni's correction, are above 0. Holm's correction would not
    be valid, because the same values choose the name. If the intervals have their nominal coverage, a name other than
    the true best is returned with a probability of at most (1 − level)/2. The probability is much smaller if several
    names are equally good.
    """
    tables = {name: table for name, table in values.items() if np.isfinite(np.asarray(table, dtype=float)).any()}
    if len(tables) < 2:
        return None
    leader = max(tables, key=lambda name: np.nanmean(np.asarray(tables[name], dtype=float)))
    corrected = 1 - (1 - level) / (len(tables) - 1)
    for name, table in tables.items():
        if name != leader and not paired_difference(tables[leader], table, corrected).low > 0:
            return None
    return leader


def length_controlled(
    wins: PromptTable,
    differences: PromptTable,
    rng: np.random.Generator | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """The win rate at equal lengths, from a logistic regression, with its interval.

    `wins` [seeds, prompts] is 1, ½ (tie) or 0. `differences` [seeds, prompts] is the length minus the opponent's, in
    tokens. Outcomes are regressed on an intercept and tanh(difference/sd), and the rate is the prediction at
    difference 0. The sd is that of all valid comparisons, in every resample too. `RIDGE` keeps the coefficients finite
    if length or policy decides every comparison. If all differences have the same sign, the rate is an extrapolation.
    If all are the same number other than 0, the effects of length and policy cannot be separated, and the rate is NaN.

    Source: length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475, section 3), without its term for the
    difficulty of an instruction, which needs many models' answers to the same instructions.
    """
    families = families_of(wins)
    wins, differences = (np.atleast_2d(np.asarray(array, dtype=float)) for array in (wins, differences))
    valid = np.isfinite(wins) & np.isfinite(differences)
    y, difference = wins[valid], differences[valid]
    spread = difference.std() if len(difference) else 0.0
    if not len(y) or (spread == 0 and difference.any()):
        return Interval(float("nan"), float("nan"), float("nan"))
    x = np.tanh(difference / spread) if spread else np.zeros_like(difference)
    counts = resample_counts(wins.shape[0], wins.shape[1], rng, resamples, families)
    rates = []
    for of_seeds, of_prompts in zip(*(np.array_split(count, CHUNKS) for count in counts), strict=True):
        weights = (of_seeds[:, :, None] * of_prompts[:, None, :])[:, valid]
        rates.append(np.where(weights.any(axis=1), rate_at_zero(x, y, weights), np.nan))
    return percentiles(float(rate_at_zero(x, y, np.ones((1, len(y))))[0]), np.concatenate(rates), level)


def rate_at_zero(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rates [fits] at x = 0 of ridge logistic regressions of y [n] (between 0 and 1) on x [n], by Newton's method.

    `weights` [fits, n] are the weights of the observations in each fit.
    """
    intercept, slope = np.zeros((2, len(weights)))
    for _ in range(NEWTON_STEPS):
        rate = logistic(intercept[:, None] + slope[:, None] * x)
        residual, curvature = weights * (y - rate), weights * rate * (1 - rate)
        gradient_0, gradient_1 = residual.sum(axis=1) - RIDGE * intercept, residual @ x - RIDGE * slope
        hessian_00, hessian_01, hessian_11 = curvature.sum(axis=1) + RIDGE, curvature @ x, curvature @ x**2 + RIDGE
        determinant = hessian_00 * hessian_11 - hessian_01**2
        step_0 = (hessian_11 * gradient_0 - hessian_01 * gradient_1) / determinant
        step_1 = (hessian_00 * gradient_1 - hessian_01 * gradient_0) / determinant
        intercept, slope = intercept + step_0, slope + step_1
        if max(np.abs(step_0).max(), np.abs(step_1).max()) < 1e-9:
            break
    return logistic(intercept)


def logistic(x: np.ndarray) -> np.ndarray:
    """σ(x) without overflow."""
    return 0.5 * (1 + np.tanh(x / 2))


def resampled_curves(
    rewards: Mapping[Name, np.ndarray],
    rng: np.random.Generator | None = None,
    resamples: int = 2000,
    families: np.ndarray | None = None,
) -> tuple[dict[Name, np.ndarray], np.ndarray]:
    """Mean rewards [1 + resamples, points] of every method, and how often each seed is drawn [1 + resamples, seeds].

    `rewards` are [seeds, points, prompts] with the same seeds and prompts for all methods. The points are the initial
    policy and every round. The first row of the results is the sample itself, and each other row is a resample, which
    draws the same prompts (or `families` [prompts], if given) and seeds for all methods.
    """
    seeds, _, prompts = next(iter(rewards.values())).shape
    counts = resample_counts(seeds, prompts, rng, resamples, families)
    of_seeds, of_prompts = (np.concatenate([np.ones((1, count.shape[1])), count]) for count in counts)
    curves = {
        name: np.stack([weighted_means(values[:, p], of_seeds, of_prompts) for p in range(values.shape[1])], axis=1)
        for name, values in rewards.items()
    }
    return curves, of_seeds


def halfway(curves: Mapping[Name, np.ndarray]) -> np.ndarray:
    """The midpoint between the initial mean and the highest final mean, per resample; NaN if no final mean is higher.

    `curves` are [resamples, points] with the same initial policy. If the prompts of a resample are easier, its curves
    and its target are both higher.
    """
    initial = next(iter(curves.values()))[:, 0]
    highest = np.fmax.reduce([curve[:, -1] for curve in curves.values()])
    return np.where(highest > initial, (initial + highest) / 2, np.nan)


def cost_to_reach(
    cost: np.ndarray, curve: np.ndarray, of_seeds: np.ndarray, target: float | np.ndarray, level: float = 0.95
) -> CostToReach:
    """The cost at which the mean reward first reaches `target`, with its interval.

    Between points, the mean reward is interpolated linearly in the mean cost. The first crossing counts, even if the
    reward falls below the target later. A resample that does not reach the target, or has no target (NaN), has an
    infinite cost, so the ends of the interval may be infinite.

    Args:
        cost: [seeds, points], cumulative, from 0.
        curve: [1 + resamples, points], from `resampled_curves`.
        of_seeds: [1 + resamples, seeds], from `resampled_curves`.
        target: One number, or [1 + resamples] from `halfway`.
        level: Confidence level of the interval.
    """
    costs = first_crossing(of_seeds @ cost / len(cost), curve, target)
    # Order statistics, because a finite and an infinite cost cannot be interpolated.
    low = np.quantile(costs[1:], (1 - level) / 2, method="lower")
    high = np.quantile(costs[1:], (1 + level) / 2, method="higher")
    return CostToReach(float(costs[0]), float(low), float(high), float(np.isfinite(costs[1:]).mean()))


def first_crossing(x: np.ndarray, y: np.ndarray, target: float | np.ndarray) -> np.ndarray:
    """The x [curves] at which piecewise linear curves through (x, y), both [curves, points], first reach `target`.

    The target is one number or [curves]. The result is infinite for a curve that stays below its target. A segment that
    starts at a NaN in y does not count.
    """
    target = np.broadcast_to(target, len(y))
    reached = y >= target[:, None]
    after = reached.argmax(axis=1)[:, None]
    before = np.maximum(after - 1, 0)
    (x0, x1), (y0, y1) = ([np.take_along_axis(a, i, axis=1)[:, 0] for i in (before, after)] for a in (x, y))
    part = np.divide(target - y0, y1 - y0, out=np.zeros_like(y0), where=y1 != y0)
    crossing = np.where(reached[:, 0], x[:, 0], x0 + part * (x1 - x0))
    return np.where(reached.any(axis=1) & np.isfinite(crossing), crossing, np.inf)
