"""Curves of β and of the quantities that its rule depends on, by optimizer step."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from prefloop.evaluation.figure_rows import BETA_CURVES
from prefloop.report.curves import draw_by_step, plain_log
from prefloop.report.plotting import legend_above

PANELS = {
    "beta": "β (per nat)",
    "threshold": "τ or M0\n(nats)",
    "beta/p_hat": "p̂, share of\nmargins above τ",
    "beta/kept": "share of\npairs kept",
}


def logged_betas(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `results.training` that concern β."""
    return table[["method", "seed", "round", "step", *(name for name in BETA_CURVES if name in table)]]


def draw_betas(table: pd.DataFrame, methods: tuple[str, ...], delta: tuple[float, ...]) -> tuple[Figure, list[str]]:
    """Draw one panel per quantity that a method's β rule has.

    Args:
        table: From `logged_betas`.
        methods: The methods, in the order of the legend.
        delta: Target shares of margins above τ, drawn as lines.

    Returns:
        The figure, and the keys of PANELS that it shows.
    """
    data = table.assign(threshold=first_of(table, ["beta/tau", "beta/m0"]))
    shown = [name for name in PANELS if name in data and data[name].notna().any()]
    ends = warmup_ends(table)
    size = (6, 0.9 + 1.4 * len(shown))
    figure, panels = plt.subplots(len(shown), figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axes, name in zip(panels[:, 0], shown, strict=True):
        draw_by_step(axes, data, name, methods)
        for step in ends:
            axes.axvline(step - 0.5, color="black", linewidth=0.9, linestyle=":")
        axes.set_ylabel(PANELS[name])
        if name == "beta":
            plain_log(axes.yaxis)
        if name == "beta/kept":
            axes.set_ylim(0, 1.05)
        for share in delta if name == "beta/p_hat" else ():
            axes.axhline(share, color="0.3", linewidth=0.9)
            axes.annotate(f"δ = {share:g}", (1.01, share), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    panels[-1, 0].set_xlabel("optimizer step")
    legend_above(figure, panels[0, 0])
    return figure, shown


def first_of(table: pd.DataFrame, names: list[str]) -> pd.Series:
    """For each row, the first value in these columns; NaN if there is none."""
    columns = table.reindex(columns=names).astype(float)
    return columns.bfill(axis=1).iloc[:, 0]


def warmup_ends(table: pd.DataFrame) -> list[int]:
    """Steps at which the threshold τ of a run first has a value."""
    if "beta/tau" not in table:
        return []
    has_threshold = table["beta/tau"].notna()
    before = has_threshold.groupby([table["method"], table["seed"]]).shift(fill_value=False)
    return sorted(set(table["step"][has_threshold & ~before]))
