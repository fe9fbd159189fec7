"""Comparisons of policies on the same prompts and seeds."""

from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.evaluation.inference import Name, PromptTable, paired_difference


def last_round(rows: pd.DataFrame, experiment: Experiment) -> dict[str, pd.DataFrame]:
    """The judgments of the initial policy (once, not per run) and of every method's last round, by name."""
    last = {"initial": rows[rows["round"] == 0].drop_duplicates(["prompt_id"])}
    return last | {m: rows[(rows["method"] == m) & (rows["round"] == experiment.rounds)] for m in experiment.methods}


def mean_over_temperatures(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The mean of `win` over temperatures per seed and prompt, by policy.

    It is NaN if one of the judgments is invalid, so that all means are over the same temperatures.
    """
    keys = [name for name in ("method", "seed", "prompt_id", "family") if name in rows.columns]
    means = rows.groupby(keys, sort=False)["win"].mean(skipna=False).reset_index()
    return {str(method): part for method, part in means.groupby("method", sort=False)}


def arrays(parts: Mapping[Name, pd.DataFrame], value: str) -> dict[Name, pd.DataFrame]:
    """The column `value` of every part as a frame [seeds, prompts], with the same seeds and prompts in all parts.

    NaN where a part lacks a prompt or seed. A part with a single seed keeps one row. Columns are sorted by prompt_id;
    if the parts have a column `family`, it is a level of the columns.
    """
    tables = {
        name: part.pivot(index="seed", columns="prompt_id", values=value).astype(float) for name, part in parts.items()
    }
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
    """Pairs of names whose paired difference of values [seeds, prompts] has a 95 % CI that contains 0."""
    pairs = []
    for first, second in combinations(values, 2):
        interval = paired_difference(values[first], values[second])
        if not (interval.low > 0 or interval.high < 0):
            pairs.append((first, second))
    return pairs


def others_of(experiment: Experiment) -> list[str]:
    """The methods that are compared with the baseline.

    Raises:
        InputError: There is no other method, or the baseline is no method.
    """
    others = [method for method in experiment.methods if method != experiment.baseline]
    if experiment.baseline not in experiment.methods or not others:
        raise InputError(
            f"baseline: {experiment.baseline!r}, expected one of two or more methods: {', '.join(experiment.methods)}"
        )
    return others


def differences(table: pd.DataFrame, experiment: Experiment, measures: list[str]) -> pd.DataFrame:
    """Every method after the last round minus the baseline, paired by prompt and seed.

    Rows over all seeds have a CI and no `seed`. With several seeds, each also has a row without a CI.

    Returns:
        Columns method, baseline, measure, seed, difference, low, high, significant (the 95 % CI excludes 0).
    """
    parts, rows = last_round(table, experiment), []
    for measure in measures:
        values = arrays({method: parts[method] for method in experiment.methods}, measure)
        for method in others_of(experiment):
            keys = {"method": method, "baseline": experiment.baseline, "measure": measure}
            interval = paired_difference(values[method], values[experiment.baseline])
            rows.append(keys | {"seed": None} | dict(zip(("difference", "low", "high"), interval, strict=True)))
            of_seeds = (values[method] - values[experiment.baseline]).mean(axis=1)
            if len(of_seeds) > 1:
                rows += [
                    keys | {"seed": seed, "difference": mean}
                    for seed, mean in zip(sorted(experiment.seeds), of_seeds, strict=True)
                ]
    data = pd.DataFrame(rows).astype({"seed": "Int64"})
    significant = ((data["low"] > 0) | (data["high"] < 0)).astype("boolean")
    return data.assign(significant=significant.where(data["seed"].isna()))
