"""Replace names of methods by their labels in figures, tables and captions. CSV files keep the names."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from prefloop.config.experiment import Experiment

NAMED = ("method", "baseline", "opponent")  # columns that name methods


def relabeled(experiment: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """A table with labels in the columns that name methods."""
    return renamed(table, experiment.label) if experiment.labels else table


def renamed(table: pd.DataFrame, label: Callable[[str], str]) -> pd.DataFrame:
    """Replace the names of methods in a table."""
    return table.assign(**{column: table[column].map(label) for column in NAMED if column in table})


def figure_text(text: str) -> str:
    """Escape text for matplotlib, so that a dollar sign does not start a formula."""
    return text.replace("$", r"\$")


def for_figure(experiment: Experiment, table: pd.DataFrame) -> tuple[Experiment, pd.DataFrame]:
    """An experiment and a table for drawing, in which labels replace the names of methods.

    The experiment cannot be used to find files any more.
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
