"""Values of single samples for power analysis, from an experiment's last round or from the CSV file of a pilot."""

from pathlib import Path

import numpy as np
import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.core.csv_files import read_frame
from prefloop.core.errors import InputError

RUN = ["method", "seed"]
SAMPLE = ["prompt_id", "sample"]
PILOT_COLUMNS = [*RUN, *SAMPLE, "value"]
EXPECTED = f"a pilot has the columns {', '.join(PILOT_COLUMNS)}, and optionally family and seconds"


def pilot_values(rows: pd.DataFrame, experiment: Experiment, measure: str) -> pd.DataFrame:
    """A measure of every sample after the last round, as a pilot with a column `family`; NaN where invalid.

    Args:
        rows: The result of `results.judgments`. Without a column `sample`, there is one sample per prompt.
        experiment: The runs.
        measure: A column of `rows`.
    """
    last = rows[(rows["round"] == experiment.rounds) & rows["method"].isin(experiment.methods)]
    table = last.assign(sample=last.get("sample", 0), value=last[measure].astype(float))[[*PILOT_COLUMNS, "family"]]
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


def prompt_families(pilot: pd.DataFrame) -> np.ndarray | None:
    """The family of each prompt [prompts], in the order of `paired_values`; None if no family has several prompts.

    A single family does not show how families vary, so each prompt is then its own cluster, as in the test.
    """
    if "family" not in pilot:
        return None
    families = pilot.groupby("prompt_id")["family"].first().sort_index().to_numpy()
    return families if 1 < len(set(families)) < len(families) else None


def read_pilot(path: Path) -> pd.DataFrame:
    """Read the CSV file of a pilot: one row per sample, with PILOT_COLUMNS and optionally `family` and `seconds`.

    An empty value is an invalid judgment.

    Raises:
        InputError: The file is not a table, a column is missing, a cell has the wrong type, or the runs cannot be
            compared.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a pilot; `snakemake --cores all pilot` writes one")
    pilot = read_frame(path)
    if missing := [name for name in PILOT_COLUMNS if name not in pilot]:
        found = ", ".join(map(str, pilot.columns))
        raise InputError(f"{path}: missing columns {', '.join(missing)}; found {found}; {EXPECTED}")
    for name in ("seed", "sample", "value", *(["seconds"] if "seconds" in pilot else [])):
        _check_numbers(path, pilot[name], whole=name in ("seed", "sample"))
    pilot = pilot.astype({"method": str, "seed": int, "sample": int})
    if "family" in pilot and (
        pilot["family"].isna().any() or (pilot.groupby("prompt_id")["family"].nunique() > 1).any()
    ):
        raise InputError(f"{path}: a prompt has no family or several; expected the same family in all rows of a prompt")
    _check_runs(path, pilot)
    return pilot


def seconds_per_seed(pilot: pd.DataFrame, methods: list[str]) -> float:
    """Seconds per seed: the mean over a method's runs, summed over methods; 0 without a column `seconds`."""
    if "seconds" not in pilot:
        return 0.0
    of_runs = pilot.groupby(RUN)["seconds"].first()
    return sum(float(of_runs[method].mean()) for method in methods)


def _check_numbers(path: Path, column: pd.Series, *, whole: bool) -> None:
    """Raise InputError with the line number if a cell is not a number. Only cells of `value` may be empty."""
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = ~np.isfinite(numbers) & (column.notna() | (column.name != "value"))
    if whole:
        wrong |= numbers % 1 != 0
    if wrong.any():
        line = int(np.argmax(wrong.to_numpy())) + 2
        cell = column.iloc[line - 2]
        found = "empty" if pd.isna(cell) else repr(cell) if isinstance(cell, str) else str(cell)
        expected = "an integer" if whole else "a finite number"
        raise InputError(f"{path}: line {line}: {column.name} is {found}, expected {expected}")


def _check_runs(path: Path, pilot: pd.DataFrame) -> None:
    """Raise InputError unless all methods have the same two or more seeds, and all runs have the same samples."""
    repeated = pilot.duplicated([*RUN, *SAMPLE])
    if repeated.any():
        line = int(np.argmax(repeated.to_numpy())) + 2
        raise InputError(f"{path}: line {line}: a second row with this method, seed, prompt_id and sample; delete one")
    for name, noun in [("method", "method"), ("seed", "seed"), ("prompt_id", "prompt")]:
        if pilot[name].nunique() < 2:
            found = f"one {noun}" if len(pilot) else f"no {noun}"
            raise InputError(f"{path}: {found}, but power needs at least two {noun}s")
    runs = {run: set(zip(rows["prompt_id"], rows["sample"], strict=True)) for run, rows in pilot.groupby(RUN)}
    expected = set().union(*runs.values())
    for method in pilot["method"].unique():
        for seed in sorted(set(pilot["seed"])):
            if (method, seed) not in runs:
                raise InputError(f"{path}: method {method} has no seed {seed}; every method needs the same seeds")
            if lacking := sorted(expected - runs[method, seed]):
                prompt, sample = lacking[0]
                raise InputError(
                    f"{path}: method {method}, seed {seed} lacks {len(lacking)} of {len(expected)} samples, such as "
                    f"prompt {prompt}, sample {sample}; every run needs the same prompts and samples, with an empty "
                    "value if a judgment is invalid"
                )
    if "seconds" in pilot and (pilot.groupby(RUN)["seconds"].nunique() > 1).any():
        raise InputError(f"{path}: seconds differ within a run; expected those of the whole run in each row")
