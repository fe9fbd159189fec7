"""Final quality by number of clusters, which are the bandit's arms."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.evaluation.figure_rows import arm_rows
from prefloop.evaluation.inference import PromptTable, interval_of, paired_difference
from prefloop.report.plotting import legend_above, line_style
from prefloop.report.significance import baseline_clause, significance_clause
from prefloop.report.win_rates import MEASURES, axis_label

Values = Mapping[str, Mapping[str, PromptTable]]  # by measure and method, [seeds, prompts]


def check_random_methods(experiment: Experiment, at_random: tuple[str, ...]) -> None:
    """Raise InputError unless `at_random` are methods, and not all of them."""
    if unknown := set(at_random) - set(experiment.methods):
        raise InputError(f"at_random: {min(unknown)!r}, expected methods of {', '.join(experiment.methods)}")
    if set(at_random) == set(experiment.methods):
        raise InputError("at_random: names all methods, so no method has clusters; add a method that uses arms")


def quality_by_arms(experiment: Experiment, values: Values, at_random: tuple[str, ...]) -> pd.DataFrame:
    """One row per measure and method: number of arms, mean with CI, paired difference from the first random method."""
    rows = []
    for measure, of_methods in values.items():
        for method in experiment.methods:
            arms = None if method in at_random else arm_count(experiment, method)
            row: dict[str, Any] = {"method": method, "clusters": arms, "measure": measure}
            row |= interval_of(measure, of_methods[method])._asdict()
            if at_random and method != at_random[0]:
                difference = paired_difference(of_methods[method], of_methods[at_random[0]])
                row |= dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def arm_count(experiment: Experiment, method: str) -> int:
    """Number of arms of a method; it is the same for all seeds."""
    last = f"{method}/seed-{experiment.seeds[0]}/round-{experiment.rounds}/step-{experiment.steps}"
    return len(arm_rows(experiment.root / last))


def draw_arm_counts(experiment: Experiment, data: pd.DataFrame) -> Figure:
    """Draw one panel per measure."""
    measures = data["measure"].unique()
    size = (0.8 + 2.6 * len(measures), 3.2)
    figure, panels = plt.subplots(1, len(measures), figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axes, measure in zip(panels[0], measures, strict=True):
        draw_measure(axes, data[data["measure"] == measure], experiment.methods)
        axes.set_xlabel("number of clusters k (arms)")
        axes.set_ylabel(axis_label(measure, experiment.opponents[0]))
    legend_above(figure, panels[0][0])
    return figure


def draw_measure(axes: Axes, data: pd.DataFrame, methods: tuple[str, ...]) -> None:
    """Draw a point with a bar per method, side by side for equal k; random methods are horizontal lines."""
    counts = sorted(data["clusters"].dropna().unique().astype(int))
    row: Any
    for row in data.itertuples():
        style = line_style(methods.index(row.method))
        if np.isnan(row.clusters):
            line = axes.axhline(row.mean, color=style["color"], linestyle=style["linestyle"], label=row.method)
            axes.axhspan(row.low, row.high, color=line.get_color(), alpha=0.15, linewidth=0)
            continue
        same = data.loc[data["clusters"] == row.clusters, "method"].tolist()
        shift = 1.5 ** ((same.index(row.method) + 0.5) / len(same) - 0.5)
        error = [[max(row.mean - row.low, 0)], [max(row.high - row.mean, 0)]]
        axes.errorbar(
            row.clusters * shift, row.mean, yerr=error, label=row.method, capsize=2, **style | {"linestyle": ""}
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(counts[0] / 1.5, counts[-1] * 1.5)


def arm_count_clauses(experiment: Experiment, values: Values, at_random: tuple[str, ...]) -> list[str]:
    """For each measure, the methods that do not differ from the first random one, or from each other without one."""
    clauses = []
    for measure, of_methods in values.items():
        if at_random:
            own = {experiment.label(method): of_methods[method] for method in experiment.methods}
            clauses.append(baseline_clause(experiment.label(at_random[0]), own, MEASURES[measure]))
        else:
            clauses.append(significance_clause(experiment, of_methods, MEASURES[measure]))
    return clauses
