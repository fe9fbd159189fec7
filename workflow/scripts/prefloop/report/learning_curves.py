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
LABEL_GAP = 0.08  # minimum distance between the names of two methods, as a fraction of the panel's height
LABEL_WIDTH = 0.4  # width of a name, as a fraction of the panel's width


def shown_measures(measures: list[str]) -> list[str]:
    """The evaluator's reward (the feedback's if it gives none), the win rate, and the measures of named evaluators.

    `measures` are from `win_rates.all_measures`.
    """
    named = [measure for measure in measures if split_measure(measure)[0]]
    return [*[name for name in ("reward", "feedback") if name in measures][:1], "win", *named]


def draw_learning_curves(experiment: Experiment, data: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """Draw a panel per measure, a row per evaluator, with the methods' names at the ends of their lines.

    Args:
        experiment: The runs.
        data: From `quality_curves.quality_by_cost`.
        seeds: From `quality_curves.seeds_by_cost`.
    """
    figure, panels = evaluator_panels(list(data["measure"].unique()), (3.4, 2.8), (0.6, 0.0))
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
        label_ends(axes, ends.loc[list(experiment.methods)])
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


def label_ends(axes: Axes, ends: pd.DataFrame) -> None:
    """Write each method's name at the end of its line, in its color.

    Args:
        axes: The panel, with all lines.
        ends: Columns labels and mean; the index has the methods, in the order of `line_style`.
    """
    points = ends[["labels", "mean"]].to_numpy(dtype=float)
    in_axes = axes.transAxes.inverted().transform(axes.transData.transform(points))
    low, high = axes.get_ylim()
    heights = low + (high - low) * label_heights(in_axes[:, 0], in_axes[:, 1], LABEL_GAP)
    for index, (method, x, y) in enumerate(zip(ends.index, ends["labels"], heights, strict=True)):
        color = line_style(index)["color"]
        axes.annotate(method, (x, y), (6, 0), textcoords="offset points", va="center", fontsize=8, color=color)


def label_heights(x: np.ndarray, y: np.ndarray, gap: float) -> np.ndarray:
    """Heights of labels at the ends of lines: at least `gap` apart where labels could overlap, and near their lines.

    Labels can overlap if their ends, in order of x, are closer than `LABEL_WIDTH`. Among these, the heights have the
    least squared distance to the lines (isotonic regression of what remains without the gaps).

    Args:
        x: [lines], fractions of the panel's width.
        y: [lines], fractions of the panel's height.
        gap: Fraction of the panel's height.
    """
    heights = np.empty(len(y))
    by_x = np.argsort(x, kind="stable")
    for group in np.split(by_x, np.flatnonzero(np.diff(x[by_x]) >= LABEL_WIDTH) + 1):
        order = group[np.argsort(y[group], kind="stable")]
        gaps = gap * np.arange(len(order))
        heights[order] = isotonic_regression(y[order] - gaps).x + gaps
    return heights
