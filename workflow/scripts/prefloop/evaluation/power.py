"""Power of the crossed random-effects test for a difference between two methods.

A paired difference of seed s, prompt p and sample k is  d = μ + seed_s + prompt_p + interaction_sp + sample_spk  with
independent normal parts. The mean over S seeds, P prompts and K samples then has the variance
seed/S + prompt/P + (interaction + sample/K)/(SP). The test divides the mean by an estimate of its standard error from
mean squares (`random_effects`). Families of prompts add a part of their own, and the test's columns are then families.

In a complete table of normal values, the mean and the three mean squares are independent, and each mean square is its
expectation times χ²/df. So the power is an integral over three χ² distributions, computed here on a grid of their
quantiles. The usual formula, a noncentral t at the expected mean squares, is wrong if a part is small. With 3 seeds,
64 prompts and no seed part, it gives 0.79, but the test has a power of 0.54 in simulation, because the test does not
know that the part is 0.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from prefloop.evaluation.random_effects import MeanSquares, complete_table, mean_squares

LEVEL = 0.05  # of the two-sided test
POWER = 0.8
QUANTILES = (24, 24, 12)  # grid of the mean squares of seeds, prompts and cells
MOST_SEEDS = 10**6  # the result is None if about this many are not enough


class VarianceParts(NamedTuple):
    """Variances of the parts of a paired difference, in squared units of the measure."""

    seed: float
    prompt: float
    interaction: float | None
    """Variance of the interaction seed x prompt. None if there is one sample per cell; `sample` then includes it."""
    sample: float
    """Variance of samples with the same seed and prompt."""
    family: float = 0.0
    """Variance of families of prompts. With families, `prompt` is the variance within a family."""
    family_interaction: float = 0.0
    """Variance of the interaction seed x family."""


class Design(NamedTuple):
    """How many values a comparison has."""

    seeds: int
    prompts: int
    samples: int
    """Per seed and prompt."""
    families: int | None = None
    """Families of prompts, of equal size, which are the test's clusters; None if every prompt is its own cluster."""

    @property
    def clusters(self) -> int:
        """Columns of the test's table."""
        return self.prompts if self.families is None else self.families


def paired_mean_squares(differences: np.ndarray, families: np.ndarray | None = None) -> MeanSquares:
    """Mean squares of the means over samples.

    Args:
        differences: [seeds, prompts, samples]; NaN marks an invalid value.
        families: The family of each prompt, [prompts]; None if every prompt is its own cluster.

    Raises:
        ValueError: No value is valid.
    """
    cells = complete_table(_cell_means(differences), families)
    if not cells.size:
        raise ValueError("no valid difference")
    return mean_squares(cells)


def has_siblings(differences: np.ndarray, families: np.ndarray) -> bool:
    """Whether a family has two prompts with valid values of two seeds, as `variance_parts` needs with families.

    Args:
        differences: [seeds, prompts, samples]; NaN marks an invalid value.
        families: The family of each prompt, [prompts].
    """
    cells = _cell_means(differences)
    return any(min(complete_table(cells[:, families == family]).shape) > 1 for family in set(families))


def variance_parts(differences: np.ndarray, families: np.ndarray | None = None) -> VarianceParts:
    """Estimate the variance parts by the method of moments; negative estimates become 0.

    Families of unequal sizes count in proportion to their number of prompts.

    Args:
        differences: [seeds, prompts, samples]; NaN marks an invalid value.
        families: The family of each prompt, [prompts]; None if every prompt is its own cluster.

    Raises:
        ValueError: Fewer than two seeds, or two prompts or families, have a valid value, or families lack siblings
            (`has_siblings`).
    """
    squares = paired_mean_squares(differences, families)
    if squares.seeds < 2 or squares.prompts < 2:
        counted = "prompts" if families is None else "families"
        raise ValueError(
            f"{squares.seeds} seeds and {squares.prompts} {counted}; variance parts need at least two of each"
        )
    if families is None:
        cells, prompt, family, family_interaction = squares.residual, squares.prompt_variance, 0.0, 0.0
    else:
        cells, prompt = _within_families(_cell_means(differences), families)
        share = squares.prompts / np.isfinite(differences).any(axis=(0, 2)).sum()  # families per prompt
        family = max(squares.prompt_variance - prompt * share, 0.0)
        family_interaction = max(squares.residual - cells * share, 0.0)
    valid = np.isfinite(differences)
    counts = valid.sum(axis=2)
    if counts.max() < 2:
        return VarianceParts(squares.seed_variance, prompt, None, cells, family, family_interaction)
    deviations = np.where(valid, differences - _cell_means(differences)[:, :, None], 0.0)
    sample = float((deviations**2).sum() / (counts - 1)[counts > 0].sum())
    of_means = sample * float((1 / counts[counts > 0]).mean())  # samples' part of the variance of cell means
    interaction = max(cells - of_means, 0.0)
    return VarianceParts(squares.seed_variance, prompt, interaction, sample, family, family_interaction)


def _within_families(cells: np.ndarray, families: np.ndarray) -> tuple[float, float]:
    """Variances of cells and of prompts within families, pooled over families.

    Args:
        cells: Means over samples, [seeds, prompts]; NaN where invalid.
        families: The family of each prompt, [prompts].

    Raises:
        ValueError: No family has two prompts with valid values for two seeds.
    """
    of_cells, of_prompts = [], []  # (sum of squares, df)
    for family in sorted(set(families)):  # a fixed order of the sums
        table = complete_table(cells[:, families == family])
        if min(table.shape) > 1:
            squares = mean_squares(table)
            df = squares.prompts - 1
            of_cells.append((squares.residual * df * (squares.seeds - 1), df * (squares.seeds - 1)))
            of_prompts.append((squares.of_prompts * df, df))
    if not of_cells:
        raise ValueError("no family has two prompts with valid values of two seeds")
    (cell_sum, cell_df), (prompt_sum, prompt_df) = (np.sum(terms, axis=0) for terms in (of_cells, of_prompts))
    cell = float(cell_sum / cell_df)
    return cell, max((float(prompt_sum / prompt_df) - cell) / len(cells), 0.0)


def _cell_means(differences: np.ndarray) -> np.ndarray:
    """Means over the valid samples, [seeds, prompts]; NaN where there is none."""
    valid = np.isfinite(differences)
    sums, counts = np.where(valid, differences, 0.0).sum(axis=2), valid.sum(axis=2)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def cell_variance(parts: VarianceParts, samples: int) -> float:
    """Variance of the mean of one cell's samples, without the parts of its seed and prompt.

    If the interaction is unknown, the whole residual counts as sampling noise. This is the best case for more samples.
    """
    return (parts.interaction or 0.0) + parts.sample / samples


def column_variances(parts: VarianceParts, design: Design) -> tuple[float, float]:
    """Variances of column effects and of residuals in the test's table; its columns are prompts or families."""
    share = design.clusters / design.prompts
    residual = parts.family_interaction + cell_variance(parts, design.samples) * share
    return parts.family + parts.prompt * share, residual


def mean_variance(parts: VarianceParts, design: Design) -> float:
    """Variance of the mean difference over all seeds, prompts and samples."""
    column, residual = column_variances(parts, design)
    return parts.seed / design.seeds + column / design.clusters + residual / (design.seeds * design.clusters)


def power_of_test(parts: VarianceParts, design: Design, difference: float) -> float:
    """Probability that the test is significant if the true difference is `difference`, in units of the measure.

    Raises:
        ValueError: The design has fewer than two seeds, or fewer than two prompts or families.
    """
    return _power_above(critical_differences(parts, design), mean_variance(parts, design), difference)


def detectable_difference(parts: VarianceParts, design: Design, power: float = POWER) -> float:
    """The smallest true difference that the test detects with probability `power`; 0 if all variances are 0.

    Raises:
        ValueError: As for `power_of_test`.
    """
    critical, variance = critical_differences(parts, design), mean_variance(parts, design)
    if variance == 0:
        return 0.0
    high = math.sqrt(variance)
    while _power_above(critical, variance, high) < power:
        high *= 2
    return float(brentq(lambda difference: _power_above(critical, variance, difference) - power, 0.0, high))


def seeds_needed(parts: VarianceParts, difference: float, design: Design, power: float = POWER) -> int | None:
    """The fewest seeds, at least 2, with which the test detects `difference` with probability `power`.

    The number of seeds in `design` is ignored. The result is None if `difference` is 0, or if MOST_SEEDS are not
    enough, such as where the variance over prompts, which does not shrink with more seeds, is too large.
    """
    if difference == 0 or power_with_all_seeds(parts, difference, design) <= power:
        return None
    low, high = 1, 2  # `low` is not enough
    while power_of_test(parts, design._replace(seeds=high), difference) < power:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power_of_test(parts, design._replace(seeds=middle), difference) < power:
            low = middle
        else:
            high = middle
    return high


def power_with_all_seeds(parts: VarianceParts, difference: float, design: Design) -> float:
    """Limit of `power_of_test` for many seeds and a nonzero difference: a t test over prompts or families.

    Both tails of the noncentral t are one tail of its square, a noncentral F. scipy's t gives NaN for the far tail.
    """
    column, _ = column_variances(parts, design)
    if column == 0:
        return 1.0
    df = design.clusters - 1
    return float(stats.ncf.sf(stats.f.isf(LEVEL, 1, df), 1, df, difference**2 / (column / design.clusters)))


def critical_differences(parts: VarianceParts, design: Design) -> np.ndarray:
    """The mean differences above which the test is significant, on a grid of equally likely mean squares.

    Returns:
        np.ndarray: [seeds, prompts, cells], the axes of QUANTILES.

    Raises:
        ValueError: As for `power_of_test`.
    """
    seeds, clusters = design.seeds, design.clusters
    if seeds < 2 or clusters < 2:
        raise ValueError(f"{seeds} seeds and {clusters} prompts or families; power needs at least two of each")
    column, residual_variance = column_variances(parts, design)
    expected = (
        clusters * parts.seed + residual_variance,
        seeds * column + residual_variance,
        residual_variance,
    )
    dfs = (seeds - 1, clusters - 1, (seeds - 1) * (clusters - 1))
    squares = [
        mean * stats.chi2.ppf((np.arange(count) + 0.5) / count, df) / df
        for mean, df, count in zip(expected, dfs, QUANTILES, strict=True)
    ]
    if not any(expected):
        return np.zeros(QUANTILES)
    of_seeds, of_prompts, residual = np.meshgrid(*squares, indexing="ij")
    variance, df = _variance_and_df(of_seeds, of_prompts, residual, design)
    return stats.t.isf(LEVEL / 2, df) * np.sqrt(variance)


def _variance_and_df(
    of_seeds: np.ndarray, of_prompts: np.ndarray, residual: np.ndarray, design: Design
) -> tuple[np.ndarray, np.ndarray]:
    """Estimated variance of the mean and Satterthwaite's df: `random_effects.estimate_mean` for arrays."""
    seeds, prompts = design.seeds, design.clusters
    kept = [(of_seeds, of_seeds > residual, seeds - 1), (of_prompts, of_prompts > residual, prompts - 1)]
    weight = 1 - sum(larger.astype(int) for _, larger, _ in kept)  # of the residual
    total, spread = weight * residual, (weight * residual) ** 2 / ((seeds - 1) * (prompts - 1))
    for square, larger, df in kept:
        total, spread = total + np.where(larger, square, 0), spread + np.where(larger, square**2 / df, 0)
    return total / (seeds * prompts), total**2 / spread


def _power_above(critical: np.ndarray, variance: float, difference: float) -> float:
    """Probability that a normal mean with this variance around `difference` is beyond ±critical, averaged over it."""
    if variance == 0:
        return float(difference != 0)
    sd = math.sqrt(variance)
    return float(np.mean(stats.norm.sf((critical - difference) / sd) + stats.norm.cdf((-critical - difference) / sd)))
