"""Differences of every method from the baseline, as points with bars."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefloop.config.evaluator_measures import split_measure
from prefloop.config.experiment import Experiment
from prefloop.evaluation.comparisons import others_of
from prefloop.report.evaluator_panels import evaluator_panels
from prefloop.report.plotting import legend_above, line_style
from prefloop.report.significance import named_baseline_clause
from prefloop.report.win_rates import axis_label, measure_label

LETTER = 0.07  # width of a letter of a method's name, inches


def draw_differences(experiment: Experiment, data: pd.DataFrame) -> Figure:
    """Draw one panel per measure, one row per evaluator; filled points are significant, small lines are single seeds.

    Args:
        experiment: The runs.
        data: From `comparisons.differences`.
    """
    methods, measures = others_of(experiment), list(data["measure"].unique())
    figure, panels = difference_panels(measures, methods)
    for measure, axes in panels.items():
        for height, method in enumerate(methods):
            own = data[(data["measure"] == measure) & (data["method"] == method)]
            row = own[own["seed"].isna()].iloc[0]
            style = line_style(experiment.methods.index(method))
            axes.hlines(height, row["low"], row["high"], color=style["color"], linewidth=1.4)
            fill = style["color"] if row["significant"] else "white"
            axes.plot(row["difference"], height, marker=style["marker"], color=style["color"], markerfacecolor=fill)
            seeds = own.loc[own["seed"].notna(), "difference"]
            axes.plot(seeds, np.full(len(seeds), height + 0.3), "|", color="0.45", markersize=5)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set_xlabel(f"{axis_label(measure, experiment.opponents[0])},\nmethod − {experiment.baseline}")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
    first = panels[measures[0]]
    first.set_yticks(range(len(methods)), methods)
    first.set_ylim(len(methods) - 0.4, -0.6)
    several = len(experiment.seeds) > 1
    labels = ("significant", "not significant") if several else ("95 % CI without 0", "95 % CI with 0")
    for fill, label in zip(("black", "white"), labels, strict=True):
        first.plot([], [], "o-", color="black", markerfacecolor=fill, label=label)
    if several:
        first.plot([], [], "|", color="0.45", label="one seed")
    legend_above(figure, first)
    return figure


def difference_panels(measures: Sequence[str], methods: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel per measure, with room for all methods; their names are left of each row."""
    named = any(split_measure(measure)[0] for measure in measures)
    height = 0.26 * len(methods) + (0.9 if named else 0)  # labels of the axis below every row
    width = max(1.2, 0.3 + LETTER * max(map(len, methods)))  # of the names
    return evaluator_panels(measures, (2.2, height), (width, 0.4 if named else 1.3), sharey=True)


def difference_clause(data: pd.DataFrame, measure: str) -> str:
    """A clause with the methods that do not differ significantly from the baseline in one measure."""
    means = data[(data["measure"] == measure) & data["seed"].isna()]
    equal = means.loc[~means["significant"].astype(bool), "method"].tolist()
    return named_baseline_clause(means["baseline"].iloc[0], equal, measure_label(measure))
