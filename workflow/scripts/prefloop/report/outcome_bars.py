"""Stacked bars of wins, ties and losses against each opponent."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefloop.evaluation.comparisons import arrays, not_significant_pairs
from prefloop.report.plotting import COLORS, legend_above
from prefloop.report.significance import pairs_clause
from prefloop.report.win_rates import opponent_label, win_rates

COMPARISON = ["opponent", "method"]
# Style of each outcome's bar, readable in black and white, and the color of the number in it.
OUTCOME_STYLES: dict[str, tuple[dict[str, Any], str | None]] = {
    "win": ({"color": COLORS[0]}, "white"),
    "tie": ({"color": "0.9"}, "black"),
    "loss": ({"color": COLORS[5]}, "black"),
    "invalid": ({"color": "white", "edgecolor": "0.5", "hatch": "/////", "linewidth": 0}, None),
}
MIN_LABELED = 7  # % of comparisons; narrower bars have no room for their number


def outcome_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Win rate with CI, number of prompts, and share of each outcome (%), by opponent and method."""
    groups = rows.groupby(COMPARISON, sort=False)
    shares = 100 * groups["outcome"].value_counts(normalize=True).unstack(fill_value=0)
    shares = shares.reindex(columns=list(OUTCOME_STYLES), fill_value=0)
    return win_rates(rows, COMPARISON).merge(
        shares.assign(prompts=groups["prompt_id"].nunique()).reset_index(), on=COMPARISON
    )


def draw_outcomes(data: pd.DataFrame, compared: str) -> Figure:
    """Draw a panel per opponent with a bar per method; `compared` names what the bars count."""
    opponents = data["opponent"].unique()
    sizes = [(data["opponent"] == opponent).sum() for opponent in opponents]
    figure, panels = plt.subplots(
        len(opponents),
        1,
        figsize=(6.5, 0.7 + 0.4 * len(opponents) + 0.28 * len(data)),
        height_ratios=[size + 0.5 for size in sizes],
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, opponent in zip(panels[:, 0], opponents, strict=True):
        draw_bars(axes, data[data["opponent"] == opponent])
        axes.set_title(f"against {opponent_label(opponent)}", loc="left", fontsize=9)
    panels[0][0].annotate(
        "win rate (tie = ½)", (1, 1), (6, 4), xycoords="axes fraction", textcoords="offset points", fontsize=8
    )
    panels[-1][0].set_xlabel(f"{compared} (%)")
    legend_above(figure, panels[0][0])
    return figure


def draw_bars(axes: Axes, data: pd.DataFrame) -> None:
    """Draw one bar per row of `data`, the first at the top, with the win rate to its right."""
    heights, left = np.arange(len(data)), np.zeros(len(data))
    for outcome, (style, text_color) in OUTCOME_STYLES.items():
        share = data[outcome].to_numpy()
        bars = axes.barh(heights, share, left=left, height=0.75, label=outcome, **style)
        if text_color:
            numbers = [f"{value:.0f}" if value >= MIN_LABELED else "" for value in share]
            # The box behind the number hides the line at 50 %.
            box = {"facecolor": style["color"], "edgecolor": "none", "pad": 0.8}
            for text in axes.bar_label(bars, numbers, label_type="center", color=text_color, fontsize=7):
                text.set_bbox(box if text.get_text() else None)
        left += share
    axes.axvline(50, color="black", linewidth=0.8, linestyle="--")
    place: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
        "fontsize": 8,
    }
    row: Any
    for height, row in zip(heights, data.itertuples(), strict=True):
        rate = f"{100 * row.win_rate:.1f} % [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        axes.annotate("no valid judgment" if np.isnan(row.win_rate) else rate, (1, height), (6, 0), **place)
    axes.set_yticks(heights, data["method"])
    axes.set_xlim(0, 100)
    axes.set_ylim(len(data) - 0.5, -0.5)
    axes.grid(visible=False)


def prompts_clause(data: pd.DataFrame) -> str:
    """A clause with the number of prompts by opponent; empty if all are equal."""
    prompts = data.groupby("opponent", sort=False)["prompts"].max()
    if prompts.nunique() == 1:
        return ""
    counts = ", ".join(f"{opponent_label(str(name))} {count}" for name, count in prompts.items())
    return f"; prompts by opponent: {counts}"


def even_clause(data: pd.DataFrame) -> str:
    """A clause with the comparisons whose CI contains 50 %; empty if no judgment is valid."""
    data = data[data["win_rate"].notna()]
    if data.empty:
        return ""
    even = data[~((data["low"] > 0.5) | (data["high"] < 0.5))]
    if not len(even):
        return "all win rates differ significantly from 50 %"
    named = ", ".join(f"{m} against {opponent_label(o)}" for m, o in zip(even["method"], even["opponent"], strict=True))
    return f"these do not differ significantly from 50 %: {named}"


def opponent_clause(against: pd.DataFrame, opponent: str) -> str:
    """A clause with the methods whose win rates against an opponent do not differ; empty for one method."""
    parts = {str(method): part for method, part in against.groupby("method", sort=False)}
    if len(parts) < 2:
        return ""
    return pairs_clause(not_significant_pairs(arrays(parts, "win")), f"win rate against {opponent_label(opponent)}")
