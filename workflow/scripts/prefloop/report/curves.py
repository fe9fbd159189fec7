"""Curves by optimizer step, and axes that several figures share."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from prefloop.config.experiment import Experiment
from prefloop.report.plotting import line_style
from prefloop.report.win_rates import MAX_BANDS


def draw_by_step(axes: Axes, table: pd.DataFrame, value: str, methods: tuple[str, ...]) -> None:
    """Draw a value of all methods that have it: the mean over seeds as a line and, if there is room, the range as a
    band.

    A line has gaps where its method has no value. Thin grey lines mark the starts of rounds.

    Args:
        axes: The panel.
        table: From `results.training`.
        value: A column of the table.
        methods: The methods, in the order of the legend.
    """
    for index, method in enumerate(methods):
        part = table[table["method"] == method].groupby("step")[value].agg(["mean", "min", "max"])
        if part["mean"].isna().all():
            continue
        style = line_style(index)
        every = max(1, len(part) // 12)
        axes.plot(part.index, part["mean"], label=method, markersize=3, markevery=every, linewidth=1.2, **style)
        if len(methods) <= MAX_BANDS:
            axes.fill_between(part.index, part["min"], part["max"], alpha=0.15, color=style["color"], linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for start in round_starts(table):
        axes.axvline(start - 0.5, color="0.6", linewidth=0.6)


def round_starts(table: pd.DataFrame) -> list[int]:
    """Steps at which all runs start a round."""
    starts = [set(part.groupby("round")["step"].min()) for _, part in table.groupby(["method", "seed"])]
    return sorted(set.intersection(*starts) - {0})


def curve_marks(experiment: Experiment, table: pd.DataFrame) -> str:
    """Explain the marks of `draw_by_step` in a sentence without its full stop."""
    several = len(experiment.seeds) > 1
    marks = "Lines are means over seeds" if several else "Lines are one run each"
    if several and len(experiment.methods) <= MAX_BANDS:
        marks += ", bands their range"
    return f"{marks}, and grey lines start rounds" if round_starts(table) else marks


def plain_log(axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers, and with more ticks per decade if there are few decades."""
    axis.axes.set(**{"xscale" if axis is axis.axes.xaxis else "yscale": "log"})
    low, high = axis.get_view_interval()
    within_decade, few_decades = high < 10 * low, high < 1000 * low
    subs = (1, 1.5, 2, 3, 5, 7) if within_decade else (1, 2, 5) if few_decades else (1,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
