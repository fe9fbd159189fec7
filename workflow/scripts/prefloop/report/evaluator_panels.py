"""Panels of measures, with one row per evaluator."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefloop.config.evaluator_measures import split_measure


def evaluator_panels(
    measures: Sequence[str], size: tuple[float, float], extra: tuple[float, float], sharey: bool = False
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel per measure: first a row for the main evaluator, then one per named evaluator.

    Rows end in the same column, so that win rates are below each other.

    Args:
        measures: The measures, grouped by evaluator.
        size: Width and height of a panel, inches.
        extra: Width and height around the panels, inches.
        sharey: Whether all panels share the vertical axis. Its labels are in the first column of every row.

    Returns:
        The figure, and the panel of each measure.
    """
    rows: dict[str, list[str]] = {}
    for measure in measures:
        rows.setdefault(split_measure(measure)[0], []).append(measure)
    columns = max(map(len, rows.values()))
    figsize = (extra[0] + size[0] * columns, extra[1] + size[1] * len(rows))
    figure, grid = plt.subplots(len(rows), columns, figsize=figsize, sharey=sharey, squeeze=False, layout="constrained")
    panels: dict[str, Axes] = {}
    for axes_of_row, own in zip(grid, rows.values(), strict=True):
        unused = len(axes_of_row) - len(own)
        for axes in axes_of_row[:unused]:
            axes.set_visible(False)
        panels |= dict(zip(own, axes_of_row[unused:], strict=True))
        if unused and sharey:
            keep_labels(axes_of_row[0])
    return figure, panels


def keep_labels(axes: Axes) -> None:
    """Show only the labels of the vertical axis. Between panels, long labels would leave no room for the panels."""
    axes.set(visible=True, frame_on=False)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", left=False)
