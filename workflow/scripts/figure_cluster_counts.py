"""Draw what the number of clusters is worth: final quality by the number of arms."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator
from tyro.conf import arg

from _program import run
from prefloop.captions import MOST_METHODS, caption, told_apart, told_apart_from
from prefloop.comparisons import arrays, last_round
from prefloop.experiment import Experiment
from prefloop.figures import legend_above, look, save, warn_of_evaluator
from prefloop.figures.win_rates import MEASURES, axis_label, measures_of
from prefloop.intervals import mean_interval, paired_difference
from prefloop.progress import Summary
from prefloop.results import verdicts
from prefloop.rows import InputError, read_json


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path, at_random: tuple[str, ...] = ()) -> Summary:
    """Draw the last round's rewards and win rate by the number of clusters; bars are 95 % bootstrap intervals.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
        at_random: Methods that look at no arm, drawn as level lines with bands; differences are from the first of them.
    """
    if unknown := set(at_random) - set(experiment.methods):
        raise InputError(f"at_random: {min(unknown)!r}, expected methods of {', '.join(experiment.methods)}")
    if set(at_random) == set(experiment.methods):
        raise InputError("at_random: all methods, so that none has clusters; compare one that allocates by arms")
    rows = verdicts(experiment)
    measured = sorted(measures_of(rows), key=["reward", "feedback", "win"].index)  # differences are told of the first
    parts = last_round(rows, experiment)
    values = {measure: arrays(parts, measure) for measure in measured}
    data = pd.DataFrame([point(experiment, values, m, n, at_random) for n in measured for m in experiment.methods])
    size = (0.8 + 2.6 * len(measured), 3.2)
    picture, panels = plt.subplots(1, len(measured), figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axes, measure in zip(panels[0], measured, strict=True):
        draw(axes, data[data["measure"] == measure], experiment.methods)
        axes.set_xlabel("number of clusters k (arms)")
        axes.set_ylabel(axis_label(measure, experiment.opponents[0]))
    legend_above(picture, panels[0][0])
    warn_of_evaluator(picture, experiment)
    sentences = ["Quality after the last round by the number of clusters k among which the bandit chooses."]
    sentences += compared(experiment, values, data, at_random)
    text = caption(experiment, *sentences, prompts=rows["prompt_id"].nunique(), shown="bars")
    save(picture, figure, data, text.replace("Bars are", "Bars and bands are") if at_random else text)
    return Summary(f"{len(experiment.methods)} methods, {data['clusters'].nunique()} numbers of clusters -> {figure}")


def point(
    experiment: Experiment,
    values: dict[str, dict[str, np.ndarray]],
    method: str,
    measure: str,
    at_random: tuple[str, ...],
) -> dict:
    """One row: a measure of a method with its interval, and its paired difference to the first method at random."""
    arms = None if method in at_random else arm_count(experiment, method)
    row = {"method": method, "clusters": arms, "measure": measure}
    row |= mean_interval(values[measure][method])._asdict()
    if at_random and method != at_random[0]:
        difference = paired_difference(values[measure][method], values[measure][at_random[0]])
        row |= dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True))
    return row


def arm_count(experiment: Experiment, method: str) -> int:
    """How many arms the method's runs have; clusters are the same for all seeds."""
    last = f"{method}/seed-{experiment.seeds[0]}/round-{experiment.rounds}/step-{experiment.steps}/arms.json"
    return len(read_json(experiment.root / last)["arms"])


def draw(axes, data: pd.DataFrame, methods: tuple[str, ...]) -> None:
    """One measure: a point with a bar a method, those of one k side by side; methods at random across the panel."""
    counts = sorted(data["clusters"].dropna().unique().astype(int))
    for row in data.itertuples():
        style = look(methods.index(row.method))
        if np.isnan(row.clusters):
            line = axes.axhline(row.mean, color=style["color"], linestyle=style["linestyle"], label=row.method)
            axes.axhspan(row.low, row.high, color=line.get_color(), alpha=0.15, linewidth=0)
            continue
        same = data.loc[data["clusters"] == row.clusters, "method"].tolist()
        aside = 1.5 ** ((same.index(row.method) + 0.5) / len(same) - 0.5)
        error = [[max(row.mean - row.low, 0)], [max(row.high - row.mean, 0)]]
        axes.errorbar(
            row.clusters * aside, row.mean, yerr=error, label=row.method, capsize=2, **style | {"linestyle": ""}
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(counts[0] / 1.5, counts[-1] * 1.5)


def compared(
    experiment: Experiment,
    values: dict[str, dict[str, np.ndarray]],
    data: pd.DataFrame,
    at_random: tuple[str, ...],
) -> list[str]:
    """How far the methods are from the first at random, and which are not told apart from it; or from each other."""
    if not at_random:
        return [s for measure, found in values.items() for s in told_apart(experiment, found, MEASURES[measure])]
    baseline = at_random[0]
    sentences = [f"Methods that look at no arm are level lines: {', '.join(at_random)}."]
    for measure, found in values.items():
        part = data[(data["measure"] == measure) & data["difference"].notna()]
        numbers = [
            f"{row.method} {row.difference:+.3g} [{row.difference_low:.3g}, {row.difference_high:.3g}]"
            for row in part.itertuples()
        ]
        if measure == next(iter(values)) and len(experiment.methods) <= MOST_METHODS:
            sentences.append(f"Paired differences of {MEASURES[measure]} to {baseline}: {', '.join(numbers)}.")
        of_methods = {method: found[method] for method in experiment.methods}
        sentences.append(told_apart_from(baseline, of_methods, MEASURES[measure]))
    return sentences


run(main)
