"""Quality after the last round by the values of swept settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefloop.config.experiment import Experiment
from prefloop.config.sweeps import SYMBOLS, point_words, value_text
from prefloop.core.errors import InputError
from prefloop.evaluation.inference import interval_of
from prefloop.report.curves import plain_log
from prefloop.report.labels import figure_text
from prefloop.report.plotting import LINES, line_style
from prefloop.report.win_rates import MAX_BANDS, axis_label

LOG_RATIO = 8  # ratio of the largest to the smallest value from which an axis is logarithmic
LEGEND_LETTER = 0.06  # width of a letter, inches


@dataclass
class SweptMethod:
    """The values of swept settings with which a method runs."""

    method: str
    """A method of the experiment."""
    swept: str
    """Label of the method that is swept, or of this method if it is not part of a sweep."""
    point: dict[str, Any] = field(default_factory=dict)
    """The value of every swept key; empty if the method is not part of a sweep."""


def quality_by_value(
    experiment: Experiment, points: Sequence[SweptMethod], values: Mapping[str, np.ndarray], measure: str
) -> pd.DataFrame:
    """One row per swept key and method, and one row without a key per method that is not swept.

    Args:
        experiment: The runs.
        points: The swept values of every method.
        values: The measure after the last round by method, [seeds, prompts].
        measure: Name of the measure.

    Returns:
        Columns key, value (as JSON), swept, others (the values of the other keys), method, measure, mean, low, high.

    Raises:
        InputError: No method is swept, or one is not in the experiment.
    """
    if unknown := {point.method for point in points} - set(experiment.methods):
        raise InputError(f"points: {min(unknown)!r}, expected methods of {', '.join(experiment.methods)}")
    if not any(point.point for point in points):
        raise InputError("points: no method is swept; name values of settings in `sweep`")
    rows = []
    for method in points:
        interval = interval_of(measure, values[method.method])._asdict()
        for key in method.point or [""]:
            words = point_words({name: value for name, value in method.point.items() if name != key})
            others = ", ".join(f"{word} {shown}" for word, shown in words.items())
            value = json.dumps(method.point[key], ensure_ascii=False, sort_keys=True) if key else ""
            keys = {"key": key, "value": value, "swept": method.swept, "others": others, "method": method.method}
            rows.append(keys | {"measure": measure} | interval)
    return pd.DataFrame(rows)


def draw_sweep(experiment: Experiment, data: pd.DataFrame) -> Figure:
    """Draw one panel per swept key; a line joins methods that differ only in this key."""
    keys = [key for key in data["key"].unique() if key]
    lines = {key: lines_of(data[data["key"] == key]) for key in keys}
    room = 0.22 * (max(map(len, lines.values())) + (data["key"] == "").sum())
    names = [name for of_key in lines.values() for name in of_key] + list(data.loc[data["key"] == "", "swept"])
    width = max(3.2, 0.8 + LEGEND_LETTER * max(map(len, names)))  # a panel has its legend above it
    size = (0.5 + width * len(keys), 2.6 + room)
    figure, panels = plt.subplots(1, len(keys), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, key in zip(panels[0], keys, strict=True):
        draw_levels(axes, data[data["key"] == ""])
        draw_key(axes, key, lines[key])
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.01), fontsize=8)
    panels[0][0].set_ylabel(axis_label(data["measure"].iloc[0], experiment.opponents[0]))
    return figure


def lines_of(part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of a key by line; a line has one swept method, with fixed values of all other keys."""
    groups = part.groupby(["swept", "others"], sort=False)
    return {", ".join(filter(None, map(str, names))): rows for names, rows in groups}


def draw_levels(axes: Axes, data: pd.DataFrame) -> None:
    """Draw the methods that are not swept as horizontal lines."""
    row: Any
    for index, row in enumerate(data.itertuples(), start=1):
        line = LINES[index % len(LINES)]
        axes.axhline(row.mean, label=figure_text(row.swept), linewidth=1, color="0.3", linestyle=line)
        axes.axhspan(row.low, row.high, color="0.3", alpha=0.08, linewidth=0)


def draw_key(axes: Axes, key: str, lines: dict[str, pd.DataFrame]) -> None:
    """Draw the lines of one key over its values, with bars if there are few lines.

    Numbers are on a linear or logarithmic axis. Other values are on a nominal axis, with the methods side by side.
    """
    values = list(dict.fromkeys(text for rows in lines.values() for text in rows["value"]))
    numbers = [json.loads(value) for value in values]
    numeric = all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers)
    for index, (name, rows) in enumerate(lines.items()):
        if numeric:
            x = np.array([json.loads(value) for value in rows["value"]], dtype=float)
        else:
            x = np.array([values.index(value) for value in rows["value"]]) + 0.08 * (index - (len(lines) - 1) / 2)
        order, style = np.argsort(x), line_style(index)
        mean, low, high = (rows[column].to_numpy()[order] for column in ("mean", "low", "high"))
        lengths = [np.maximum(mean - low, 0), np.maximum(high - mean, 0)] if len(lines) <= MAX_BANDS else None
        style |= {} if numeric else {"linestyle": ""}
        axes.errorbar(x[order], mean, yerr=lengths, label=figure_text(name), capsize=2, markersize=4, **style)
    if not numeric:
        axes.set_xticks(range(len(values)), [figure_text(value_text(number)) for number in numbers])
        axes.set_xlim(-0.5, len(values) - 0.5)
    elif min(numbers) > 0 and max(numbers) >= LOG_RATIO * min(numbers):
        plain_log(axes.xaxis)
    elif all(isinstance(number, int) for number in numbers):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"{SYMBOLS[key]} ({key})" if key in SYMBOLS else key)
