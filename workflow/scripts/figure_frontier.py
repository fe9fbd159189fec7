"""Draw the reward–KL frontier: how much better each policy is for how far it has gone from the initial one."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption, told_apart
from prefloop.comparisons import arrays, last_round
from prefloop.experiment import Experiment
from prefloop.figures import legend_above, look, save, warn_of_evaluator
from prefloop.figures.win_rates import MEASURES, MOST_BANDS, measures_of, opponent_in_words
from prefloop.progress import Summary
from prefloop.results import divergences, interval_by_round, verdicts

POLICY = ["method", "round"]


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw quality against KL divergence; every point is a round, crosses are 95 % bootstrap intervals.

    The evaluator's reward is drawn, or the win rate if it gives none, and the reward by the config's feedback if any.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    rows, moved = verdicts(experiment), divergences(experiment)
    moved = moved.groupby([*POLICY, "seed", "prompt_id"], sort=False)["kl"].mean().reset_index()
    found = measures_of(rows)
    first = "reward" if "reward" in found else "win"
    measured = [first, *(["feedback"] if "feedback" in found else [])]
    names = {"mean": "kl", "low": "kl_low", "high": "kl_high"}
    kl = interval_by_round(moved, "kl").rename(columns=names)
    data = pd.concat([quality(rows, measure) for measure in measured]).merge(kl, how="left", on=POLICY)
    data.loc[data["round"] == 0, list(names.values())] = 0.0
    seeds = pd.DataFrame()
    if experiment.rounds == 1 and len(experiment.seeds) > 1:
        seeds = pd.concat([by_seed(rows, moved, measure) for measure in measured])
    size = (0.6 + 3.3 * len(measured), 4.3 if len(experiment.methods) > MOST_BANDS else 3.3)
    picture, _ = plt.subplots(1, len(measured), figsize=size, layout="constrained")
    against = {"win": f"win rate against {opponent_in_words(experiment.opponents[0])}"}
    for axes, measure in zip(picture.axes, measured, strict=True):
        dots = seeds[seeds["measure"] == measure] if len(seeds) else seeds
        draw(axes, experiment, data[data["measure"] == measure], dots)
        axes.set_xlabel("KL(policy ‖ initial policy)\n(nats per response)")
        axes.set_ylabel((MEASURES | against)[measure])
    legend_above(picture, picture.axes[0])
    warn_of_evaluator(picture, experiment)
    ends = last_round(rows, experiment)
    sentences = told(experiment, first)
    sentences += told_apart(experiment, arrays(ends, first), f"{MEASURES[first]} after the last round")
    ends = {m: moved[(moved["method"] == m) & (moved["round"] == experiment.rounds)] for m in experiment.methods}
    sentences += told_apart(experiment, arrays(ends, "kl"), "KL after the last round")
    text = caption(experiment, *sentences, prompts=rows["prompt_id"].nunique(), shown="crosses")
    save(picture, figure, pd.concat([data.assign(seed=pd.NA), seeds], ignore_index=True), text)
    return Summary(f"{len(data)} points of {len(experiment.methods)} methods -> {figure}")


def quality(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean and interval of a measure by method and round; the initial policy stands once, as method initial."""
    initial = rows[rows["round"] == 0].drop_duplicates("prompt_id").assign(method="initial")
    policies = pd.concat([initial, rows[rows["round"] > 0]])
    return interval_by_round(policies, measure).assign(measure=measure)


def by_seed(rows: pd.DataFrame, moved: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean KL and mean of the measure of each single run."""
    trained = rows[rows["round"] > 0].astype({measure: float})
    means = trained.groupby([*POLICY, "seed"], sort=False)[measure].mean().rename("mean").reset_index()
    kl = moved.groupby([*POLICY, "seed"], sort=False)["kl"].mean().reset_index()
    return means.merge(kl, on=[*POLICY, "seed"]).assign(measure=measure)


def draw(axes, experiment: Experiment, data: pd.DataFrame, seeds: pd.DataFrame) -> None:
    """One measure: a line a method through its rounds, or a point and its seeds if there is one round."""
    start = data[data["method"] == "initial"]
    for index, method in enumerate(experiment.methods):
        part, style = data[data["method"] == method].sort_values("round"), look(index)
        last = part["round"] == experiment.rounds
        crossed = part[last] if len(experiment.methods) > MOST_BANDS else part
        crosses = {"xerr": ends(crossed, "kl", "kl_low", "kl_high"), "yerr": ends(crossed, "mean", "low", "high")}
        axes.errorbar(crossed["kl"], crossed["mean"], **crosses, fmt="none", ecolor=style["color"], elinewidth=0.7)
        if experiment.rounds > 1:
            line = pd.concat([start, part])
            axes.plot(line["kl"], line["mean"], linewidth=1, **style | {"marker": ""})
        else:
            style["linestyle"] = ""
        if len(seeds):
            dots = seeds[seeds["method"] == method]
            axes.plot(dots["kl"], dots["mean"], markersize=2, **style)
            style["markerfacecolor"] = "none"  # so that the seeds stay in sight
        for kl, mean, number in part[["kl", "mean", "round"]].itertuples(index=False):
            axes.plot(kl, mean, markersize=2.5 + 4 * number / experiment.rounds, **style | {"linestyle": ""})
        axes.plot([], [], label=method, markersize=5, **style)
    yerr = ends(start, "mean", "low", "high")
    axes.errorbar(start["kl"], start["mean"], yerr=yerr, color="black", marker="x", linestyle="", elinewidth=0.7)
    axes.plot([], [], label="initial policy", color="black", marker="x", linestyle="")


def ends(part: pd.DataFrame, mean: str, low: str, high: str) -> list[pd.Series]:
    """How far an interval goes below and above its mean; a percentile interval need not hold it."""
    return [(part[mean] - part[low]).clip(lower=0), (part[high] - part[mean]).clip(lower=0)]


def told(experiment: Experiment, measure: str) -> list[str]:
    """What this figure's caption says before what every caption says."""
    each = "a method after every round; lines start at the initial policy and markers grow with the round"
    if experiment.rounds == 1:
        each = "a method after its one round"
        each += "; small marks are its seeds" if len(experiment.seeds) > 1 else ""
    elif len(experiment.methods) > MOST_BANDS:
        each += "; of so many methods only the last round has crosses here, the CSV has all"
    said = {"reward": "rewards are those", "win": "win rates are those"}[measure]
    return [
        "The reward–KL frontier. Across: how far the policy has gone from the initial one; up: what it is worth.",
        f"Points are {each}.",
        "KL is exact at every position of responses sampled at temperature 1, up to the length at which they are cut; "
        f"{said} of one sample a prompt at temperature {experiment.temperature:g}.",
    ]


run(main)
