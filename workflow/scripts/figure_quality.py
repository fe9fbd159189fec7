"""Draw reward and win rate against cumulative cost, by method."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import EngFormatter, MaxNLocator
from tyro.conf import arg

from _program import run
from prefloop.captions import caption, told_apart
from prefloop.comparisons import arrays, last_round
from prefloop.experiment import Experiment
from prefloop.figures import legend_above, look, save, warn_of_evaluator
from prefloop.figures.win_rates import MEASURES, MOST_BANDS, axis_label, measures_of, opponent_in_words
from prefloop.progress import Summary
from prefloop.results import interval_by_round, spent, verdicts

COSTS = {"flops": "floating-point operations", "generated_tokens": "generated tokens"}


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw quality against cost; every point is a round, bands are 95 % bootstrap intervals.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    table = verdicts(experiment)
    measured = measures_of(table)
    data = pd.concat([interval_by_round(table, name).assign(measure=name) for name in measured])
    data = data.merge(spent(experiment), on=["method", "round"])
    spending = {cost: label for cost, label in COSTS.items() if data[cost].max() > 0}  # given responses are free
    crowded = len(experiment.methods) > MOST_BANDS
    picture, panels = plt.subplots(
        len(measured),
        len(spending),
        figsize=(0.5 + 3.25 * len(spending), (3.4 if crowded else 2.4) * len(measured)),
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for row, measure in enumerate(measured):
        panels[row][0].set_ylabel(axis_label(measure, experiment.opponents[0]))
        for column, cost in enumerate(spending):
            axes = panels[row][column]
            for index, method in enumerate(experiment.methods):
                part = data[(data["measure"] == measure) & (data["method"] == method)].sort_values("round")
                style = look(index)
                axes.plot(part[cost], part["mean"], label=method, markersize=4, **style)
                if not crowded:
                    axes.fill_between(
                        part[cost], part["low"], part["high"], alpha=0.15, color=style["color"], linewidth=0
                    )
            if measure == "win":
                axes.axhline(0.5, color="0.4", linewidth=0.8)
                axes.set_xlabel(COSTS[cost])
                axes.xaxis.set_major_locator(MaxNLocator(5))
                axes.xaxis.set_major_formatter(EngFormatter())
    legend_above(picture, panels[0][0])
    warn_of_evaluator(picture, experiment)
    parts = {name: part for name, part in last_round(table, experiment).items() if name != "initial"}
    measure = "reward" if "reward" in measured else "win"
    told = caption(
        experiment,
        f"Quality on held-out prompts after every round: {', '.join(MEASURES[name] for name in measured)} against "
        f"{opponent_in_words(experiment.opponents[0])} (by the evaluator, a tie counts ½). Across is the cumulative "
        "cost of alignment: generation, rewards, log-probabilities and training; evaluation is not counted. All "
        "policies answer with the same random numbers, prompt by prompt, at temperature "
        f"{experiment.temperature:g}.",
        "Intervals of so many methods are left to tables/results.csv." if crowded else "",
        *told_apart(experiment, arrays(parts, measure), MEASURES[measure] + " after the last round"),
        prompts=table["prompt_id"].nunique(),
        shown=None if crowded else "bands",
    )
    save(picture, figure, data, told)
    return Summary(f"{len(data)} points -> {figure}")


run(main)
