"""Draw how far every method is from the baseline at the end, prompt by prompt and seed by seed."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import UNCORRECTED, caption, undecided
from prefloop.comparisons import differences, others_of
from prefloop.experiment import Experiment
from prefloop.figures import legend_above, look, save, warn_of_evaluator
from prefloop.figures.win_rates import MEASURES, axis_label, measures_of, opponent_in_words
from prefloop.progress import Summary
from prefloop.results import verdicts


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw the last round of every method minus the baseline's, one panel a measure; bars are 95 % intervals.

    Differences are paired: the same prompts and seeds stand on both sides.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    baseline, opponent, others = experiment.baseline, experiment.opponents[0], others_of(experiment)
    table = verdicts(experiment)
    measured = measures_of(table)
    data = differences(table, experiment, measured)
    size = (1.2 + 2.2 * len(measured), 1.3 + 0.26 * len(others))
    picture, panels = plt.subplots(1, len(measured), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, measure in zip(panels[0], measured, strict=True):
        for height, method in enumerate(others):
            own = data[(data["measure"] == measure) & (data["method"] == method)]
            row = own[own["seed"].isna()].iloc[0]
            style = look(experiment.methods.index(method))
            axes.hlines(height, row["low"], row["high"], color=style["color"], linewidth=1.4)
            fill = style["color"] if row["told_apart"] else "white"
            axes.plot(row["difference"], height, marker=style["marker"], color=style["color"], markerfacecolor=fill)
            seeds = own.loc[own["seed"].notna(), "difference"]
            axes.plot(seeds, np.full(len(seeds), height + 0.3), "|", color="0.45", markersize=5)
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set_xlabel(f"{axis_label(measure, opponent)},\nmethod − {baseline}")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="y", visible=False)
    panels[0][0].set_yticks(range(len(others)), others)
    panels[0][0].set_ylim(len(others) - 0.4, -0.6)
    for fill, label in {"black": "interval without 0", "white": "interval holds 0"}.items():
        panels[0][0].plot([], [], "o-", color="black", markerfacecolor=fill, label=label)
    if len(experiment.seeds) > 1:
        panels[0][0].plot([], [], "|", color="0.45", label="one seed")
    legend_above(picture, panels[0][0])
    warn_of_evaluator(picture, experiment)
    told = caption(
        experiment,
        f"Every method after the last round minus {baseline}, at the same prompts and seeds and temperature "
        f"{experiment.temperature:g}: {', '.join(MEASURES[measure] for measure in measured)} against "
        f"{opponent_in_words(opponent)} (a tie counts ½, an invalid verdict not at all).",
        *(
            not_apart(data[(data["measure"] == measure) & data["seed"].isna()], MEASURES[measure])
            for measure in measured
        ),
        prompts=table["prompt_id"].nunique(),
        shown="bars",
    )
    save(picture, figure, data, told)
    return Summary(f"{', '.join(measured)} of {', '.join(others)} minus {baseline} -> {figure}")


def not_apart(means: pd.DataFrame, what: str) -> str:
    """Which methods `what` does not tell apart from the baseline, as a sentence."""
    pairs = means.loc[~means["told_apart"], ["method", "baseline"]].itertuples(index=False, name=None)
    if means["told_apart"].all():
        return f"Every method is told apart from {means['baseline'].iloc[0]} by {what} {UNCORRECTED}."
    return undecided(list(pairs), what)


run(main)
