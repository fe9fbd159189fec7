"""Convergence of samplers on a table of actions: curves of |δ| by update, and the theorems' bounds."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefloop.methods.tabular import BOUNDS, SAMPLER_LABELS
from prefloop.report.plotting import legend_above, line_style

DELTA_LABELS = {"param_diff": "mean |δ| (units of reward)", "max_diff": "largest |δ| (units of reward)"}
# Title, mode, kind, measure, and the smallest value shown; smaller values are rounding errors.
PANELS = [
    ("exact gradients, as released", "normalized", "exact", "param_diff", 1e-14),
    ("exact gradients, paper mode", "paper", "exact", "max_diff", 1e-20),
    ("paper mode, lower-bound instance", "lower_bound", "exact", "max_diff", 1e-20),
    ("sampled pairs, as released", "normalized", "empirical", "param_diff", None),
]
# Label of a bound, the value at which it is placed, and the side of the text that is at this point.
BOUND_LABELS = {
    "unif": ("$0.588^T$", 5e-3, "left"),
    "mix_r": ("$2^{1-2^T}$", 1e-11, "right"),
    "mix_p": ("$0.611^{2^T-1}$", 1e-15, "left"),
}


def delta_quantiles(table: pd.DataFrame) -> pd.DataFrame:
    """Median, 10th and 90th percentile over seeds of |δ|, by mode, kind, sampler, measure and step."""
    keys = ["mode", "kind", "sampler", "step"]
    long = table.melt(id_vars=[*keys, "seed"], value_vars=list(DELTA_LABELS), var_name="measure", value_name="size")
    groups = long.groupby([*keys[:3], "measure", "step"])["size"]
    quantiles = (
        groups.quantile(np.array([0.1, 0.5, 0.9])).unstack().rename(columns={0.1: "low", 0.5: "median", 0.9: "high"})
    )
    return quantiles.assign(seeds=groups.size()).reset_index()


def draw_convergence(data: pd.DataFrame, samplers: list[str]) -> Figure:
    """Draw the four panels of PANELS; `data` is from `delta_quantiles`."""
    figure, panels = plt.subplots(2, 2, figsize=(7.2, 5.6), layout="constrained")
    for axes, (title, mode, kind, measure, least) in zip(panels.flat, PANELS, strict=True):
        part = data[(data["mode"] == mode) & (data["kind"] == kind) & (data["measure"] == measure)]
        for index, sampler in enumerate(samplers):
            draw_sampler(axes, part[part["sampler"] == sampler], SAMPLER_LABELS[sampler], index)
        axes.set(title=title, ylabel=DELTA_LABELS[measure], xlabel="updates", yscale="log", xlim=(0, None))
        if least is not None:
            axes.set_ylim(least, 10)
        if mode == "paper":
            draw_bounds(axes, least or 0.0, part["step"].max(), samplers)
    legend_above(figure, panels[0][0])
    return figure


def draw_sampler(axes: Axes, part: pd.DataFrame, label: str, index: int) -> None:
    """Draw a sampler's median and band; markers of samplers are shifted, so that equal lines stay visible."""
    style, spacing = line_style(index), max(1, len(part) // 7)
    axes.plot(part["step"], part["median"], label=label, markersize=3.5, markevery=(index % spacing, spacing), **style)
    axes.fill_between(part["step"], part["low"], part["high"], alpha=0.15, color=style["color"], linewidth=0)


def draw_bounds(axes: Axes, least: float, last: int, samplers: list[str]) -> None:
    """Draw the paper's upper bounds for these samplers as thin grey lines, with labels away from other lines."""
    updates = np.linspace(0, last, 400)
    for sampler in (name for name in BOUND_LABELS if name in samplers):
        label, depth, side = BOUND_LABELS[sampler]
        values = BOUNDS[sampler](updates)
        axes.plot(updates[values > least], values[values > least], color="0.45", linewidth=0.8)
        index = np.flatnonzero(values > depth)[-1]
        style: dict[str, Any] = {"ha": side, "fontsize": 7.5, "color": "0.3", "textcoords": "offset points"}
        axes.annotate(label, (updates[index], values[index]), (4 if side == "left" else -4, 3), **style)


def overshooting_seeds(table: pd.DataFrame) -> dict[str, int]:
    """By sampler, the number of seeds in which the exact, released update more than doubled the largest |δ|."""
    part = table[(table["mode"] == "normalized") & (table["kind"] == "exact")]
    largest = part.groupby(["sampler", "seed"], sort=False)["max_diff"].agg(["first", "max"])
    doubled = (largest["max"] > 2 * largest["first"]).groupby("sampler", sort=False).sum()
    return {SAMPLER_LABELS[str(sampler)]: int(count) for sampler, count in doubled.items() if count}


def final_deltas(data: pd.DataFrame, samplers: list[str], kind: str) -> str:
    """The median over seeds of the mean |δ| after the last update in the mode "as released", by sampler."""
    part = data[(data["mode"] == "normalized") & (data["kind"] == kind) & (data["measure"] == "param_diff")]
    ends = part[part["step"] == part["step"].max()].set_index("sampler")["median"]
    return ", ".join(f"{SAMPLER_LABELS[sampler]} {ends[sampler]:.2g}" for sampler in samplers)
