"""Reward and win rate against labels: the first figure to check whether training works and what it costs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from prefloop.config.evaluator_measures import is_rate, split_measure
from prefloop.config.experiment import Experiment
from prefloop.report.evaluator_panels import evaluator_panels
from prefloop.report.plotting import line_style
from prefloop.report.quality_curves import draw_curve
from prefloop.report.win_rates import MAX_BANDS, axis_label

WIDE_RANGE = 3  # ratio of methods' final labels from which their axis is logarithmic
MAX_TICKS = 6
PANEL = (2.4, 2.8)  # width without names and height, inches
LETTER, LINE = 0.068, 0.18  # width of a letter and height of a line of a name, inches


def shown_measures(measures: list[str]) -> list[str]:
    """The evaluator's reward (the feedback's if it gives none), the win rate, and the measures of named evaluators.

    `measures` are from `win_rates.all_measures`.
    """
    named = [measure for measure in measures if split_measure(measure)[0]]
    return [*[name for name in ("reward", "feedback") if name in measures][:1], "win", *named]


def draw_learning_curves(experiment: Experiment, data: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """Draw a panel per measure, a row per evaluator, with the methods' names to the right of each panel.

    Args:
        experiment: The runs.
        data: From `quality_curves.quality_by_cost`.
        seeds: From `quality_curves.seeds_by_cost`.
    """
    width = PANEL[0] + LETTER * max(map(len, experiment.methods))
    height = max(PANEL[1], 0.6 + LINE * len(experiment.methods))
    figure, panels = evaluator_panels(list(data["measure"].unique()), (width, height), (0.6, 0.0))
    ticks = doubling_ticks(data)
    for measure, axes in panels.items():
        for index, method in enumerate(experiment.methods):
            part, dots = (rows[(rows["measure"] == measure) & (rows["method"] == method)] for rows in (data, seeds))
            draw_curve(axes, part, dots, "labels", index, len(experiment.methods) <= MAX_BANDS)
        axes.set_ylabel(axis_label(measure, experiment.opponents[0]))
        axes.set_xlabel("labels")
        if ticks:
            axes.set_xscale("symlog", base=2, linthresh=ticks[1], linscale=0.5)  # as far from 0 to first as a doubling
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
        if is_rate(measure):
            axes.axhline(0.5, color="0.4", linewidth=0.8)
        rows = data[data["measure"] == measure]
        ends = rows.loc[rows.groupby("method")["round"].idxmax()].set_index("method")
        label_ends(axes, ends.loc[list(experiment.methods)], LINE / (height - 0.6))
    return figure


def doubling_ticks(data: pd.DataFrame) -> list[int]:
    """Ticks of a logarithmic axis of labels: 0, the first number of labels, and powers of two times it.

    The list is empty, and the axis linear, unless some method ends with `WIDE_RANGE` times as many labels as another:
    on a linear axis the lines of the cheaper methods would overlap.

    Args:
        data: Columns method and labels, from `quality_curves.quality_by_cost`.
    """
    ends = data.groupby("method")["labels"].max()
    ends = ends[ends > 0]
    if ends.empty or ends.max() < WIDE_RANGE * ends.min():
        return []
    first = int(data.loc[data["labels"] > 0, "labels"].min())
    factor = 2
    while first * factor ** (MAX_TICKS - 1) < ends.max():
        factor *= 2
    ticks = [0, first]
    while ticks[-1] < ends.max():
        ticks.append(ticks[-1] * factor)
    return ticks


def label_ends(axes: Axes, ends: pd.DataFrame, gap: float) -> None:
    """Write each method's name to the right of a panel, in its color, and connect it to the end of its line.

    Args:
        axes: The panel, with all lines.
        ends: Columns labels and mean; the index has the methods, in the order of `line_style`. A method without a mean
            gets no name.
        gap: Minimum distance between two names, as a fraction of the panel's height.
    """
    colors = [line_style(index)["color"] for index in range(len(ends))]
    ends = ends.assign(color=colors).dropna(subset="mean")
    low, high = axes.get_ylim()
    ends["height"] = label_heights((ends["mean"].to_numpy(dtype=float) - low) / (high - low), gap)
    for method, end in ends.iterrows():
        axes.annotate(
            str(method),
            (end["labels"], end["mean"]),
            (1.06, end["height"]),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=end["color"],
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end["color"],
                "linewidth": 0.5,
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )


def label_heights(y: np.ndarray, gap: float) -> np.ndarray:
    """Heights of names next to a panel: inside of it, at least `gap` apart, and near the ends of their lines.

    They have the least squared distance to the ends (isotonic regression of what remains without the gaps).

    Args:
        y: [lines], heights of the ends, as fractions of the panel's height.
        gap: Fraction of the panel's height; smaller if the names do not fit otherwise.
    """
    order, heights = np.argsort(y, kind="stable"), np.empty(len(y))
    gaps = min(gap, 1 / max(len(y) - 1, 1)) * np.arange(len(y))
    if len(y):
        heights[order] = isotonic_regression(y[order] - gaps).x.clip(0, 1 - gaps[-1]) + gaps
    return heights
