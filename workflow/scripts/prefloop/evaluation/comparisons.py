"""Comparisons of policies on the same prompts and seeds."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.evaluation.inference import Name, PromptTable, exact_zeros, paired_difference, paired_estimate
from prefloop.evaluation.random_effects import holm


def last_round(rows: pd.DataFrame, experiment: Experiment) -> dict[str, pd.DataFrame]:
    """The judgments of the initial policy (once instead of once per run) and of every method's last round, by name."""
    last = {"initial": rows[rows["round"] == 0].drop_duplicates(["prompt_id", "sample"])}
    return last | {m: rows[(rows["method"] == m) & (rows["round"] == experiment.rounds)] for m in experiment.methods}


def mean_over_temperatures(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The mean of `win` over samples and then over temperatures, per seed and prompt, by policy.

    The mean is NaN if a temperature has no valid judgment, so that all means are over the same temperatures.
    """
    keys = [name for name in ("method", "seed", "prompt_id", "family") if name in rows.columns]
    of_samples = rows.groupby([*keys, "temperature"], sort=False)["win"].mean().reset_index()
    means = of_samples.groupby(keys, sort=False)["win"].mean(skipna=False).reset_index()
    return {str(method): part for method, part in means.groupby("method", sort=False)}


def mean_over_samples(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """The column `value` as a frame [seeds, prompts]: the mean over a prompt's valid samples, NaN if it has none."""
    values = rows.astype({value: float}).groupby(["seed", "prompt_id"])[value]
    return values.mean().unstack("prompt_id")


def arrays(parts: Mapping[Name, pd.DataFrame], value: str) -> dict[Name, pd.DataFrame]:
    """The column `value` of every part as a frame [seeds, prompts], with the same seeds and prompts in all frames.

    Cells are means over the valid samples of a prompt, and NaN where a part lacks the prompt or seed. A part with a
    single seed keeps one row. Columns are sorted by prompt_id. If all parts have a column `family`, it becomes a level
    of the columns.
    """
    tables = {name: mean_over_samples(part, value) for name, part in parts.items()}
    prompts = sorted(set().union(*(table.columns for table in tables.values())))
    seeds = sorted(set().union(*(table.index for table in tables.values() if len(table) > 1)))
    aligned = {
        name: table.reindex(index=seeds if len(table) > 1 else table.index, columns=prompts)
        for name, table in tables.items()
    }
    if all("family" in part.columns for part in parts.values()):
        families: dict[str, str] = {}
        for part in parts.values():
            families |= dict(zip(part["prompt_id"], part["family"], strict=True))
        columns = pd.MultiIndex.from_tuples([(families[p], p) for p in prompts], names=["family", "prompt_id"])
        aligned = {name: table.set_axis(columns, axis=1) for name, table in aligned.items()}
    return aligned


def not_significant_pairs(values: Mapping[str, PromptTable]) -> list[tuple[str, str]]:
    """Pairs of names that do not differ significantly: the 95 % CI of their paired difference contains 0.

    Args:
        values: [seeds, prompts] by name.
    """
    pairs = []
    for first, second in combinations(values, 2):
        interval = paired_difference(values[first], values[second])
        if not (interval.low > 0 or interval.high < 0):
            pairs.append((first, second))
    return pairs


def others_of(experiment: Experiment) -> list[str]:
    """The methods that are compared with the baseline.

    Raises:
        InputError: The baseline is not a method, or it is the only one.
    """
    others = [method for method in experiment.methods if method != experiment.baseline]
    if experiment.baseline not in experiment.methods or not others:
        raise InputError(
            f"baseline: {experiment.baseline!r}, expected one of two or more methods: {', '.join(experiment.methods)}"
        )
    return others


def differences(table: pd.DataFrame, experiment: Experiment, measures: list[str]) -> pd.DataFrame:
    """The difference between every method and the baseline after the last round, paired by prompt and seed.

    Rows over all seeds have a CI and a test; their `seed` is empty. With several seeds, every seed also has its own
    row, without a CI or a test.

    Returns:
        Columns method, baseline, measure, seed, difference, low, high, p (two-sided), p_holm (corrected for the number
        of methods), improved (share of seeds in which the method is above the baseline; ties count ½), contrast
        (primary or exploratory), significant (the 95 % CI excludes 0).
    """
    parts, rows = last_round(table, experiment), []
    for measure in measures:
        values = arrays({method: parts[method] for method in experiment.methods}, measure)
        methods, tests = others_of(experiment), []
        for method in methods:
            pair = values[method], values[experiment.baseline]
            of_seeds = exact_zeros((pair[0] - pair[1]).mean(axis=1), *pair)
            tests.append((method, paired_estimate(*pair), of_seeds))
        corrected = holm([estimate.p_value for _, estimate, _ in tests])
        for (method, estimate, of_seeds), p_holm in zip(tests, corrected, strict=True):
            keys = {"method": method, "baseline": experiment.baseline, "measure": measure}
            row = keys | {"seed": None} | dict(zip(("difference", "low", "high"), estimate.interval(), strict=True))
            named = (method, measure) == (experiment.primary.method, experiment.primary.measure)
            row |= {
                "p": estimate.p_value,
                "p_holm": p_holm,
                "improved": probability_of_improvement(of_seeds),
            }
            rows.append(row | {"contrast": "primary" if named else "exploratory"})
            if len(of_seeds) > 1:
                rows += [
                    keys | {"seed": seed, "difference": mean}
                    for seed, mean in zip(sorted(experiment.seeds), of_seeds, strict=True)
                ]
    data = pd.DataFrame(rows).astype({"seed": "Int64"})
    significant = ((data["low"] > 0) | (data["high"] < 0)).astype("boolean")
    return data.assign(significant=significant.where(data["seed"].isna()))


def probability_of_improvement(differences: np.ndarray) -> float:
    """Share of `differences` [seeds] above 0, where 0 counts ½: the probability of improvement over paired seeds.

    NaN is left out. Source: Agarwal et al. 2021 (arXiv 2108.13264), who compare all pairs of runs instead.
    """
    valid = differences[np.isfinite(differences)]
    return float(((valid > 0) + 0.5 * (valid == 0)).mean()) if len(valid) else float("nan")
