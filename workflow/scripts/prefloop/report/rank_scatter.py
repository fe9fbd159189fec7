"""Scatter plots of pairs with Spearman's ρ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.evaluation.correlations import Resampled, partial
from prefloop.evaluation.figure_rows import pair_table
from prefloop.report.plotting import COLORS

LENGTH_LABEL = "length difference\nchosen − rejected (tokens)"


def draw_scatter(
    data: pd.DataFrame,
    x_labels: Mapping[str, str],
    y: tuple[str, str],
    rho: Mapping[str, Resampled],
    width: float,
    **style: Any,
) -> Figure:
    """Draw one panel per quantity on the x axis.

    Args:
        data: One row per point.
        x_labels: By column of `data`, in the order of panels.
        y: Column and label of the y axis.
        rho: Spearman's ρ of each column with y, shown in the panel's title.
        width: Width of the figure, inches.
        style: Style of the points.
    """
    figure, panels = plt.subplots(
        1, len(x_labels), figsize=(width, 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (name, label) in zip(panels[0], x_labels.items(), strict=True):
        axes.scatter(data[name], data[y[0]], color=COLORS[0], linewidths=0, **style)
        axes.set_title(f"ρ {rho[name]}", fontsize=9)
        axes.set_xlabel(label)
    panels[0][0].set_ylabel(y[1])
    return figure


def annotated_pairs(experiment: Experiment) -> pd.DataFrame:
    """Every ordered pair of annotated responses, with its PFP, reward gap and length difference."""
    tables = [pd.DataFrame(keys | dict(pair_table(folder))) for keys, folder in experiment.step_folders()]
    return pd.concat(tables, ignore_index=True)


def run_of_file(experiment: Experiment, path: Path) -> dict:
    """The method, seed and round whose folder has a file."""
    for keys, folder in experiment.folders():
        if folder.resolve() == path.resolve().parent:
            return keys
    raise InputError(f"{path}: not in the folder of a round of {experiment.root}'s methods and seeds")


def partial_correlation(xy: Resampled, xz: Resampled, yz: Resampled) -> Resampled:
    """Partial correlation of x and y given z, for the rows and for every resample."""
    estimate = partial(*(np.array(part.estimate) for part in (xy, xz, yz)))
    return Resampled(float(estimate), partial(*(part.resamples for part in (xy, xz, yz))))


def stronger_of(first: Resampled, second: Resampled) -> int:
    """1 or −1 if |ρ| of the first is significantly larger or smaller than that of the second, else 0."""
    difference = Resampled(
        abs(first.estimate) - abs(second.estimate), np.abs(first.resamples) - np.abs(second.resamples)
    )
    _, low, high = difference.interval
    return int(low > 0) - int(high < 0)
