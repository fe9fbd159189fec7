"""Policies side by side: arrays of the same prompts and seeds, from rows."""

from collections.abc import Hashable
from itertools import combinations

import numpy as np
import pandas as pd

from prefloop.experiment import Experiment
from prefloop.intervals import paired_difference
from prefloop.rows import InputError


def last_round(rows: pd.DataFrame, experiment: Experiment) -> dict[str, pd.DataFrame]:
    """The verdicts of the initial policy (once, not once a run) and of every method's last round, by name."""
    last = {"initial": rows[rows["round"] == 0].drop_duplicates(["prompt_id"])}
    return last | {m: rows[(rows["method"] == m) & (rows["round"] == experiment.rounds)] for m in experiment.methods}


def arrays(parts: dict[Hashable, pd.DataFrame], value: str) -> dict[Hashable, np.ndarray]:
    """Every part's `value` as [seeds, prompts]: the same prompt in every column, the same seed in every row.

    NaN where a part has no such prompt or seed. A part with one seed keeps its one row, whichever seed that is.
    """
    tables = {
        name: part.pivot(index="seed", columns="prompt_id", values=value).astype(float) for name, part in parts.items()
    }
    prompts = sorted(set().union(*(table.columns for table in tables.values())))
    seeds = sorted(set().union(*(table.index for table in tables.values() if len(table) > 1)))
    return {
        name: table.reindex(index=seeds if len(table) > 1 else table.index, columns=prompts).to_numpy()
        for name, table in tables.items()
    }


def not_told_apart(values: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of names whose paired difference of values [seeds, prompts] has an interval that holds 0."""
    found = []
    for one, other in combinations(values, 2):
        interval = paired_difference(values[one], values[other])
        if not (interval.low > 0 or interval.high < 0):
            found.append((one, other))
    return found


def others_of(experiment: Experiment) -> list[str]:
    """The methods that are compared with the baseline; InputError if there is none, or no such baseline."""
    others = [method for method in experiment.methods if method != experiment.baseline]
    if experiment.baseline not in experiment.methods or not others:
        raise InputError(
            f"baseline: {experiment.baseline!r}, expected one of two or more methods: {', '.join(experiment.methods)}"
        )
    return others


def differences(table: pd.DataFrame, experiment: Experiment, measures: list[str]) -> pd.DataFrame:
    """Every method after the last round minus the baseline, paired by prompt and seed.

    Columns method, baseline, measure, seed, difference, low, high, told_apart (the interval leaves out 0).

    The mean over seeds has no seed; the mean of one seed, where there are several, has no interval.
    """
    parts, rows = last_round(table, experiment), []
    for measure in measures:
        values = arrays({method: parts[method] for method in experiment.methods}, measure)
        for method in others_of(experiment):
            what = {"method": method, "baseline": experiment.baseline, "measure": measure}
            interval = paired_difference(values[method], values[experiment.baseline])
            rows.append(what | {"seed": None} | dict(zip(("difference", "low", "high"), interval, strict=True)))
            of_seeds = pd.DataFrame(values[method] - values[experiment.baseline]).mean(axis=1)
            if len(of_seeds) > 1:
                rows += [
                    what | {"seed": seed, "difference": mean}
                    for seed, mean in zip(sorted(experiment.seeds), of_seeds, strict=True)
                ]
    data = pd.DataFrame(rows).astype({"seed": "Int64"})
    told_apart = ((data["low"] > 0) | (data["high"] < 0)).astype("boolean")
    return data.assign(told_apart=told_apart.where(data["seed"].isna()))
