"""Write which differences from the baseline the experiment could detect, and the cost of more seeds."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.power_designs import GRID_PROMPTS, GRID_SAMPLES, power_table
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, count_of
from prefloop.report.feedback_labels import evaluators_sentence
from prefloop.report.labels import relabeled
from prefloop.report.tables import given_measures, save_table, table_label


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write power by contrast, measure and design; the LaTeX table has the design as run and the largest evaluation.

    Args:
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    rows = judgments(experiment)
    data = power_table(rows, experiment, given_measures(rows, experiment))
    save_table(table, data, shown_rows(relabeled(experiment, data)), power_caption(data, experiment))
    return Summary(f"{len(data)} rows -> {table}")


def shown_rows(data: pd.DataFrame) -> pd.DataFrame:
    """One row per contrast and measure."""
    as_run = data[data["as_run"]]
    largest = data[(data["prompts"] == GRID_PROMPTS) & (data["samples"] == GRID_SAMPLES[-1])]
    largest = largest.drop_duplicates(["method", "measure"]).set_index(["method", "measure"])["seeds_needed"]
    contrasts = list(zip(as_run["method"], as_run["measure"], strict=True))
    seconds = (as_run["gpu_seconds"] + as_run["cpu_seconds"]) / as_run["seeds"]
    return pd.DataFrame(
        {
            f"minus {data['baseline'].iloc[0]}": as_run["method"],
            "measure": as_run["measure"].map(table_label),
            "difference": [f"{value:+.3g}" if pd.notna(value) else "--" for value in as_run["difference"]],
            "sd over seeds": as_run["seed_sd"].map(number),
            "detectable": as_run["detectable"].map(number),
            "seeds needed": as_run["seeds_needed"].map(number),
            f"seeds needed ({GRID_PROMPTS} prompts x {GRID_SAMPLES[-1]})": [
                number(largest.get(contrast)) for contrast in contrasts
            ],
            "seconds per seed": seconds.map("{:,.1f}".format),
        }
    )


def number(value: float | None) -> str:
    """A number with three digits; "--" if it is missing."""
    return "--" if value is None or pd.isna(value) else f"{value:,.3g}" if isinstance(value, float) else f"{value:,}"


def power_caption(data: pd.DataFrame, experiment: Experiment) -> str:
    """Explain the columns and their limits."""
    minus = f"Differences from {experiment.label(experiment.baseline)} after the last round"
    as_run = data[data["as_run"]].iloc[0]
    if as_run["seeds"] == 1:
        unknown = "With 1 seed the variance between seeds is unknown: power needs at least two seeds."
        return caption(f"{minus}, and the cost of one more seed.", unknown, evaluators_sentence(experiment))
    seeds, prompts, samples = (count_of(int(as_run[f"{noun}s"]), noun) for noun in ("seed", "prompt", "sample"))
    if not pd.isna(as_run["families"]):
        prompts += f" of {as_run['families']} families"
    detectable = f"the smallest that {seeds}, {prompts} and {samples} per prompt detect with 80 % power at p < 0.05"
    missing = "-- means that a million seeds are not enough with these prompts, or that the difference is 0."
    rough = f"Variance components are estimated from only {seeds}"
    if as_run["samples"] == 1:
        rough += (
            "; rows with more samples per prompt are the best case, because one sample cannot separate sampling noise"
        )
    needed = f"{minus}, {detectable}, and the seeds that the observed difference needs."
    return caption(needed, missing, f"{rough}.", evaluators_sentence(experiment))


run(main)
