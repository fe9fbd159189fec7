"""Draw reward and win rate against cumulative cost, by method."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import EngFormatter, MaxNLocator
from tyro.conf import arg

from _program import run
from prefloop.figures import legend_above, look, save
from prefloop.results import Experiment, interval_by_round, spent, verdicts
from prefloop.seeds import rng_for

MEASURES = {
    "feedback": "mean reward\n(feedback)",
    "reward": "mean reward\n(evaluator)",
    "win": "win rate against\nthe initial policy",
}
COSTS = {"flops": "floating-point operations", "generated_tokens": "generated tokens"}


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> None:
    """Draw quality against cost; every point is a round, bands are 95 % bootstrap intervals.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png and .csv stand beside it.
    """
    table = verdicts(experiment)
    rng = rng_for(0, "figure_quality")
    measured = {name: label for name, label in MEASURES.items() if table[name].notna().any()}  # a judge rewards nothing
    data = pd.concat([interval_by_round(table, name, rng).assign(measure=name) for name in measured])
    data = data.merge(spent(experiment), on=["method", "round"])
    picture, panels = plt.subplots(
        len(measured), 2, figsize=(7, 2.4 * len(measured)), sharex="col", sharey="row", layout="constrained"
    )
    for row, (measure, label) in enumerate(measured.items()):
        panels[row][0].set_ylabel(label)
        for column, cost in enumerate(COSTS):
            axes = panels[row][column]
            for index, method in enumerate(experiment.methods):
                part = data[(data["measure"] == measure) & (data["method"] == method)].sort_values("round")
                style = look(index)
                axes.plot(part[cost], part["mean"], label=method, markersize=4, **style)
                axes.fill_between(part[cost], part["low"], part["high"], alpha=0.15, color=style["color"], linewidth=0)
            if measure == "win":
                axes.axhline(0.5, color="0.4", linewidth=0.8)
                axes.set_xlabel(COSTS[cost])
                axes.xaxis.set_major_locator(MaxNLocator(5))
                axes.xaxis.set_major_formatter(EngFormatter())
    legend_above(picture, panels[0][0])
    save(picture, figure, data)
    print(f"figure_quality: {len(data)} points")


run(main)
