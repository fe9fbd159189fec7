"""Perplexity of plain text by round."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from prefloop.config.experiment import Experiment
from prefloop.report.plotting import legend_above, line_style


def draw_perplexity(experiment: Experiment, data: pd.DataFrame) -> Figure:
    """Draw a line of means over seeds per method, and a point per run; the right axis has bits per byte.

    Args:
        experiment: The runs.
        data: From `perplexity_results.perplexities`.
    """
    figure, axes = plt.subplots(figsize=(4.6, 3.2), layout="constrained")
    axes.axhline(data.loc[data["round"] == 0, "perplexity"].iloc[0], color="0.4", linewidth=0.8)
    for index, method in enumerate(experiment.methods):
        part, style = data[data["method"] == method], line_style(index)
        means = part.groupby("round")["perplexity"].mean()
        axes.plot(means.index, means, label=method, markersize=3.5, linewidth=1.2, **style)
        if len(experiment.seeds) > 1:
            axes.plot(part["round"], part["perplexity"], alpha=0.5, markersize=2.5, **style | {"linestyle": ""})
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round (0 is the initial policy)")
    axes.set_ylabel("perplexity per token")
    add_bits_axis(axes, data["n_tokens"].iloc[0] / data["n_bytes"].iloc[0])
    legend_above(figure, axes)
    return figure


def add_bits_axis(axes: Axes, tokens_per_byte: float) -> None:
    """Add an axis on the right with the bits per byte at the ticks of the left axis, which has perplexities.

    Ticks at round numbers of bits would be crowded at low perplexities, because bits are a logarithm.
    """

    def bits_of(perplexity: ArrayLike) -> np.ndarray:
        return np.log2(np.maximum(perplexity, 1e-9)) * tokens_per_byte

    def perplexity_of(bits: ArrayLike) -> np.ndarray:
        return 2 ** (np.asarray(bits) / tokens_per_byte)

    low, high = axes.get_ylim()
    ticks = np.array([tick for tick in axes.get_yticks() if low <= tick <= high and tick >= 1])
    bits = axes.secondary_yaxis("right", functions=(bits_of, perplexity_of))
    bits.set_yticks(bits_of(ticks), [f"{value:.4g}" for value in bits_of(ticks)])
    bits.set_ylabel("bits per byte")
