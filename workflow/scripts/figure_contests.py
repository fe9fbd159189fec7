"""Draw what every method won, tied and lost against each of its opponents."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption, undecided
from prefloop.comparisons import arrays, not_told_apart
from prefloop.experiment import Experiment
from prefloop.figures import COLOURS, legend_above, save, warn_of_evaluator
from prefloop.figures.win_rates import opponent_in_words, win_rates
from prefloop.progress import Summary
from prefloop.results import contests

CONTEST = ["opponent", "method"]
# From dark to light and back, so that black and white is enough; on each, the colour that its number is readable in.
LOOKS = {
    "win": ({"color": COLOURS[0]}, "white"),
    "tie": ({"color": "0.9"}, "black"),
    "loss": ({"color": COLOURS[5]}, "black"),
    "invalid": ({"color": "white", "edgecolor": "0.5", "hatch": "/////", "linewidth": 0}, None),
}
READABLE = 7  # per cent of prompts; a narrower part has no room for its number


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw stacked bars of outcomes at the last round, and write the win rate with its 95 % interval beside each.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    rows = contests(experiment, experiment.against_everybody())
    data = win_rates(rows, CONTEST).merge(outcomes(rows), on=CONTEST)
    opponents = data["opponent"].unique()
    sizes = [(data["opponent"] == opponent).sum() for opponent in opponents]
    picture, panels = plt.subplots(
        len(opponents),
        1,
        figsize=(6.5, 0.7 + 0.4 * len(opponents) + 0.28 * len(data)),
        height_ratios=[size + 0.5 for size in sizes],
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, opponent in zip(panels[:, 0], opponents, strict=True):
        stack(axes, data[data["opponent"] == opponent])
        axes.set_title(f"against {opponent_in_words(opponent)}", loc="left", fontsize=9)
    panels[0][0].annotate(
        "win rate (tie = ½)", (1, 1), (6, 4), xycoords="axes fraction", textcoords="offset points", fontsize=8
    )
    panels[-1][0].set_xlabel("prompts (%)")
    legend_above(picture, panels[0][0])
    warn_of_evaluator(picture, experiment)
    even = data[~((data["low"] > 0.5) | (data["high"] < 0.5))]
    told = caption(
        experiment,
        "Outcomes of the last round's samples against each opponent's of the same prompt, at temperature "
        f"{experiment.temperature:g}. At the right the win rate: a tie counts ½, an invalid verdict not at all.",
        unequal(rows.groupby("opponent", sort=False)["prompt_id"].nunique()),
        undecided_contests(even),
        *(not_apart(against, opponent_in_words(name)) for name, against in rows.groupby("opponent", sort=False)),
        prompts=rows["prompt_id"].nunique(),
        shown="brackets",
    )
    save(picture, figure, data, told)
    return Summary(f"{len(data)} contests against {len(opponents)} opponents -> {figure}")


def outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns opponent, method, prompts, and the share of each outcome in per cent of all verdicts."""
    groups = rows.groupby(CONTEST, sort=False)
    shares = 100 * groups["outcome"].value_counts(normalize=True).unstack(fill_value=0)
    shares = shares.reindex(columns=list(LOOKS), fill_value=0)
    return shares.assign(prompts=groups["prompt_id"].nunique()).reset_index()


def stack(axes, data: pd.DataFrame) -> None:
    """Draw one bar a row of `data`, the first above, with the win rate at its right."""
    heights, left = np.arange(len(data)), np.zeros(len(data))
    for outcome, (style, readable) in LOOKS.items():
        share = data[outcome].to_numpy()
        bars = axes.barh(heights, share, left=left, height=0.75, label=outcome, **style)
        if readable:
            numbers = [f"{value:.0f}" if value >= READABLE else "" for value in share]
            # Keeps the line at 50 % off the number.
            box = {"facecolor": style["color"], "edgecolor": "none", "pad": 0.8}
            texts = axes.bar_label(bars, numbers, label_type="center", color=readable, fontsize=7)
            for text in texts:
                text.set_bbox(box if text.get_text() else None)
        left += share
    axes.axvline(50, color="black", linewidth=0.8, linestyle="--")
    for height, row in zip(heights, data.itertuples(), strict=True):
        rate = f"{100 * row.win_rate:.1f} % [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        text = "no valid verdict" if np.isnan(row.win_rate) else rate
        axes.annotate(
            text,
            (1, height),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(heights, data["method"])
    axes.set_xlim(0, 100)
    axes.set_ylim(len(data) - 0.5, -0.5)
    axes.grid(visible=False)


def unequal(prompts: pd.Series) -> str:
    """How many prompts each opponent has an answer to, as a sentence; nothing to say where all have the same."""
    if prompts.nunique() == 1:
        return ""
    return f"Prompts by opponent: {', '.join(f'{opponent_in_words(name)} {count}' for name, count in prompts.items())}."


def undecided_contests(even: pd.DataFrame) -> str:
    """Which contests' intervals hold 50 %, as a sentence."""
    if not len(even):
        return "No interval holds 50 %."
    named = "; ".join(f"{row.method} against {opponent_in_words(row.opponent)}" for row in even.itertuples())
    return f"Undecided, as the interval holds 50 %: {named}."


def not_apart(against: pd.DataFrame, opponent: str) -> str:
    """Which methods their win rates against one opponent do not tell apart; nothing to say of one method."""
    parts = {method: part for method, part in against.groupby("method", sort=False)}
    if len(parts) < 2:
        return ""
    return undecided(not_told_apart(arrays(parts, "win")), f"the win rate against {opponent}")


run(main)
