"""Draw on which clusters of prompts the policies became better."""

import math
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption, many, told_apart
from prefloop.comparisons import arrays, last_round
from prefloop.experiment import Experiment
from prefloop.figures import look, save, warn_of_evaluator
from prefloop.figures.win_rates import opponent_in_words
from prefloop.intervals import mean_interval
from prefloop.progress import Summary
from prefloop.results import verdicts
from prefloop.rows import InputError

FEWEST = 3  # prompts of a cluster that stands for itself
ACROSS = 4  # methods beside each other; more go below


def main(*, experiment: Annotated[Experiment, arg(name="")], clusters: Path, figure: Path) -> Summary:
    """Draw the last round's win rate minus the initial policy's, by cluster; bars are 95 % bootstrap intervals.

    Args:
        experiment: Which runs.
        clusters: Clusters of the evaluation's prompts, CSV: prompt_id, cluster.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    rows = verdicts(experiment)
    changes = arrays(last_round(rows, experiment), "win")
    initial = 0.5 if experiment.opponents[0] == "initial" else changes["initial"]  # ½ against itself, whoever judges
    prompts = sorted(rows["prompt_id"].unique())  # the columns of `changes`
    groups, pooled = grouped(clusters_of(prompts, clusters))
    data = pd.DataFrame(
        {"method": method, "cluster": name, "prompts": len(columns)}
        | mean_interval((changes[method] - initial)[:, columns])._asdict()
        for method in experiment.methods
        for name, columns in groups.items()
    )
    picture = draw(experiment, data)
    warn_of_evaluator(picture, experiment)
    sentences = told(experiment, data, pooled)
    sentences += told_apart(experiment, changes, "win rate over all prompts")
    save(picture, figure, data, caption(experiment, *sentences, prompts=len(prompts), shown="bars"))
    return Summary(f"{len(prompts)} prompts in {len(groups) - 1} groups -> {figure}")


def clusters_of(prompts: list[str], path: Path) -> pd.Series:
    """The cluster of each of these prompts, in their order."""
    table = pd.read_csv(path, dtype={"prompt_id": str}, keep_default_na=False).set_index("prompt_id")["cluster"]
    if missing := set(prompts) - set(table.index):
        raise InputError(f"{path}: no cluster of prompt {min(missing)}, which was evaluated; run rule cluster again")
    return table[prompts]


def grouped(labels: pd.Series) -> tuple[dict[str, np.ndarray], list[str]]:
    """Places of the prompts of each cluster, by its name; of all that are too small, as rest; of all prompts, as all.

    The second result names the clusters in rest.
    """
    sizes = labels.value_counts().sort_index()
    pooled = sizes.index[sizes < FEWEST]
    groups = {str(c): np.flatnonzero(labels == c) for c in sizes.index if c not in pooled}
    if len(pooled):
        groups["rest"] = np.flatnonzero(labels.isin(pooled))
    return groups | {"all": np.arange(len(labels))}, [str(c) for c in pooled]


def draw(experiment: Experiment, data: pd.DataFrame):
    """A panel a method: a point with a bar a cluster, one below the other; all prompts together at the bottom."""
    names = data["cluster"].unique().tolist()
    places = dict(zip(names, [*range(len(names) - 1), len(names) - 0.5], strict=True))
    sizes = data.drop_duplicates("cluster").set_index("cluster")["prompts"]
    columns = min(ACROSS, len(experiment.methods))
    lines = math.ceil(len(experiment.methods) / columns)
    size = (1 + 1.7 * columns, 0.5 + lines * (0.5 + 0.19 * len(names)))
    picture, panels = plt.subplots(
        lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axes in panels.flat[len(experiment.methods) :]:
        axes.set_visible(False)
    for index, (axes, method) in enumerate(zip(panels.flat, experiment.methods, strict=False)):
        part = data[data["method"] == method]
        error = [(part["mean"] - part["low"]).clip(lower=0), (part["high"] - part["mean"]).clip(lower=0)]
        axes.axvline(0, color="0.4", linewidth=0.8)
        y = part["cluster"].map(places)
        axes.errorbar(part["mean"], y, xerr=error, capsize=2, markersize=4, **look(index) | {"linestyle": ""})
        axes.axhline(len(names) - 1.25, color="0.6", linewidth=0.6)
        axes.set_title(method, fontsize=9)
        axes.tick_params(axis="y", labelsize=7)
        axes.tick_params(labelbottom=index + columns >= len(experiment.methods))  # also above an empty place
    panels[0][0].set_yticks(list(places.values()), [f"{name} (n = {sizes[name]})" for name in names])
    panels[0][0].set_ylim(len(names), -0.7)
    picture.supxlabel(f"change of win rate against {opponent_in_words(experiment.opponents[0])}", fontsize=9)
    picture.supylabel("cluster (prompts)", fontsize=9)
    return picture


def told(experiment: Experiment, data: pd.DataFrame, pooled: list[str]) -> list[str]:
    """What this figure's caption says before what every caption says."""
    sentences = [
        f"Win rate against {opponent_in_words(experiment.opponents[0])} after the last round minus the initial "
        "policy's, by cluster of the held-out prompts; n is the number of prompts in a cluster.",
    ]
    if pooled:
        sentences.append(f"Clusters with fewer than {FEWEST} prompts ({', '.join(pooled)}) are pooled as rest.")
    of_clusters = data[data["cluster"] != "all"]
    outside = int(((of_clusters["low"] > 0) | (of_clusters["high"] < 0)).sum())
    sentences.append(
        f"Intervals are not corrected for their number: {outside} of {many(len(of_clusters), 'interval')} of clusters "
        "leave out 0, and one in twenty would by chance alone, more in clusters of few prompts."
    )
    if (of_clusters["low"] == of_clusters["high"]).any():
        sentences.append(
            "Where all prompts of a cluster changed alike its bar has no length, which says little of a few."
        )
    return sentences


run(main)
