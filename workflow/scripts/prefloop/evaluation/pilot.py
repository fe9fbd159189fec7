"""Values of single samples from which power is computed."""

import numpy as np
import pandas as pd

from prefloop.config.experiment import Experiment

RUN = ["method", "seed"]
SAMPLE = ["prompt_id", "sample"]
PILOT_COLUMNS = [*RUN, *SAMPLE, "value"]


def pilot_values(rows: pd.DataFrame, experiment: Experiment, measure: str) -> pd.DataFrame:
    """A measure of every method's samples after the last round, with the columns of a pilot; NaN where invalid.

    Args:
        rows: As `results.judgments` returns them. Without a column `sample` there is one sample per prompt.
        experiment: The runs.
        measure: A column of `rows`.
    """
    last = rows[(rows["round"] == experiment.rounds) & rows["method"].isin(experiment.methods)]
    table = last.assign(sample=last.get("sample", 0), value=last[measure].astype(float))[PILOT_COLUMNS]
    return table.sort_values(["seed", *SAMPLE], ignore_index=True)


def paired_values(pilot: pd.DataFrame, method: str, baseline: str) -> np.ndarray:
    """The method's values minus the baseline's, [seeds, prompts, samples]; NaN where either is invalid or missing."""
    tables = [
        pilot[pilot["method"] == name].set_index(["seed", *SAMPLE])["value"].astype(float)
        for name in (method, baseline)
    ]
    levels = [sorted(set(pilot[name])) for name in ("seed", *SAMPLE)]
    every = pd.MultiIndex.from_product(levels)
    values, of_baseline = (table.reindex(every).to_numpy() for table in tables)
    return (values - of_baseline).reshape([len(level) for level in levels])
