"""Draw win rates over training."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from tyro.conf import arg

from _program import run
from prefloop.captions import caption, undecided
from prefloop.comparisons import arrays, not_told_apart
from prefloop.experiment import Experiment
from prefloop.figures import legend_above, look, save, warn_of_evaluator
from prefloop.figures.win_rates import MOST_BANDS, draw_rates, opponent_in_words, win_rates
from prefloop.progress import Summary
from prefloop.results import contests, training
from prefloop.rows import InputError

ACROSS = 2  # temperatures beside each other; more go below


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw the win rate of every checkpoint and round's end, one panel a temperature; bands are 95 % intervals.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    if not experiment.by_checkpoint.methods:
        raise InputError("figures: no checkpoints there, so nothing is evaluated for this figure; name them in config")
    rows = contests(experiment, experiment.over_training())
    lengths = round_lengths(experiment)
    data = at_steps(win_rates(rows, ["temperature", "method", "round", "checkpoint"]), lengths)
    methods, temperatures = experiment.by_checkpoint.methods, data["temperature"].unique()
    crowded, opponent = len(methods) > MOST_BANDS, opponent_in_words(experiment.opponents[0])
    columns = min(ACROSS, len(temperatures))
    lines = math.ceil(len(temperatures) / columns)
    size = (1 + 3 * columns, (3.8 if crowded else 2.7) * lines + 0.6 * crowded)
    picture, panels = plt.subplots(
        lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axes in panels.flat[len(temperatures) :]:
        axes.set_visible(False)
    for axes, temperature in zip(panels.flat, temperatures, strict=False):
        part = data[data["temperature"] == temperature]
        for method in methods:
            style = look(experiment.methods.index(method))
            curve = part[(part["round"] == 0) | (part["method"] == method)].sort_values("step", kind="stable")
            draw_rates(axes, curve, "step", method, style | {"markerfacecolor": "white"}, not crowded)
            ends = curve[(curve["round"] > 0) & (curve["checkpoint"] < 0)]
            axes.plot(ends["step"], ends["win_rate"], markersize=4, **style | {"linestyle": ""})
        axes.axhline(0.5, color="0.4", linewidth=0.8)
        axes.set_title(f"sampling temperature {temperature:g}", fontsize=9)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelbottom=True)  # below a panel there may be none
    for axes in panels[:, 0]:
        axes.set_ylabel(f"win rate against\n{opponent}")
    legend_above(picture, panels[0][0])
    warn_of_evaluator(picture, experiment)
    differ = (lengths.groupby(level=["method", "round"]).nunique() > 1).any()
    told = caption(
        experiment,
        f"Win rate against {opponent} (a tie counts ½, an invalid verdict not at all) over training, by temperature of "
        "sampling. Step 0 is the initial policy, open markers are checkpoints, filled ones ends of rounds.",
        "Seeds trained unequal numbers of steps: their mean is drawn." if differ else "",
        "Intervals of so many methods are left to the data beside the figure." if crowded else "",
        *(not_apart(rows[rows["temperature"] == t], experiment, t) for t in temperatures),
        prompts=rows["prompt_id"].nunique(),
        shown=None if crowded else "bands",
    )
    save(picture, figure, data, told)
    return Summary(f"{len(data)} policies at {len(temperatures)} temperatures -> {figure}")


def round_lengths(experiment: Experiment) -> pd.Series:
    """Optimizer steps by method, seed and round, of the methods whose checkpoints are evaluated."""
    table = training(replace(experiment, methods=experiment.by_checkpoint.methods))
    return table.groupby(["method", "seed", "round"]).size()


def at_steps(data: pd.DataFrame, lengths: pd.Series) -> pd.DataFrame:
    """`data` with its column `step`: optimizer steps since the first round's start, a mean over seeds.

    A round begins where the one before it ended; the initial policy is at 0.
    """
    ends = lengths.groupby(level=["method", "seed"]).cumsum()
    places = pd.DataFrame({"start": ends - lengths, "end": ends}).groupby(level=["method", "round"]).mean()
    placed = data.merge(places.reset_index(), on=["method", "round"], how="left")
    within = np.where(placed["checkpoint"] < 0, placed["end"], placed["start"] + placed["checkpoint"])
    return placed.drop(columns=["start", "end"]).assign(step=np.where(placed["round"] == 0, 0, within))


def not_apart(rows: pd.DataFrame, experiment: Experiment, temperature: float) -> str:
    """Which of the initial policy and the methods at their end one temperature's win rates do not tell apart."""
    ends = rows[((rows["round"] == experiment.rounds) & (rows["checkpoint"] < 0)) | (rows["round"] == 0)]
    parts = {method: part for method, part in ends.groupby("method", sort=False)}
    apart = not_told_apart(arrays(parts, "win"))
    return undecided(apart, f"the win rate at temperature {temperature:g} at the end of training")


run(main)
