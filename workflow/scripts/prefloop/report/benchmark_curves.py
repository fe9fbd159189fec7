"""The score of a benchmark by round."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefloop.config.experiment import Experiment
from prefloop.report.plotting import legend_above, line_style


def draw_benchmark(experiment: Experiment, data: pd.DataFrame, label: str) -> Figure:
    """Draw a line of means over seeds per method, and a point per run.

    Args:
        experiment: The runs.
        data: From `benchmark_runs.benchmark_values`.
        label: Name of the score.
    """
    figure, axes = plt.subplots(figsize=(4.2, 3.2), layout="constrained")
    for index, method in enumerate(experiment.methods):
        part, style = data[data["method"] == method], line_style(index)
        means = part.groupby("round")["value"].mean()
        axes.plot(means.index, means, linewidth=1.2, **style | {"marker": ""})
        axes.plot(part["round"], part["value"], markersize=3.5, **style | {"linestyle": ""})
        axes.plot([], [], label=method, markersize=3.5, linewidth=1.2, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round (0 is the initial policy)")
    axes.set_ylabel(label)
    legend_above(figure, axes)
    return figure
