"""Labels in place of the names of methods, in figures, tables and captions. CSV files keep the names."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from prefloop.config.experiment import Experiment

NAMED = ("method", "baseline", "opponent")  # columns that name methods


def relabeled(experiment: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """A table with labels in the columns that name methods."""
    return renamed(table, experiment.label) if experiment.labels else table


def renamed(table: pd.DataFrame, label: Callable[[str], str]) -> pd.DataFrame:
    """A table with other names of methods."""
    return table.assign(**{column: table[column].map(label) for column in NAMED if column in table})


def figure_text(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign starts no formula."""
    return text.replace("$", r"\$")


def for_figure(experiment: Experiment, table: pd.DataFrame) -> tuple[Experiment, pd.DataFrame]:
    """An experiment and a table whose methods are named by their labels, to be drawn.

    The experiment names no files any more.
    """
    if not experiment.labels:
        return experiment, table

    def label(name: str) -> str:
        return figure_text(experiment.label(name))

    def labels(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(label, names))

    shown = replace(
        experiment,
        methods=labels(experiment.methods),
        labels=(),
        opponents=labels(experiment.opponents),
        baseline=label(experiment.baseline),
        acquiring=labels(experiment.acquiring),
        mixing=labels(experiment.mixing),
        by_temperature=replace(experiment.by_temperature, methods=labels(experiment.by_temperature.methods)),
        by_checkpoint=replace(experiment.by_checkpoint, methods=labels(experiment.by_checkpoint.methods)),
    )
    return shown, renamed(table, label)
