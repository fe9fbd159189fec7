"""Draw a map of the training prompts: where the clusters lie, and which prompts each method annotated."""

import math
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption, many
from prefloop.experiment import Experiment
from prefloop.figures import save
from prefloop.progress import Summary
from prefloop.results import annotated


def main(*, experiment: Annotated[Experiment, arg(name="")], clusters: tuple[Path, ...], figure: Path) -> Summary:
    """Draw the map, one panel a method: colour and number are the cluster, size the pulls over all seeds.

    Args:
        experiment: Which runs.
        clusters: clusters.csv of every method; most or all share one.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    maps = {
        method: pd.read_csv(path, dtype={"prompt_id": str}, keep_default_na=False)
        for method, path in zip(experiment.methods, clusters, strict=True)
    }
    pulls = annotated(experiment).groupby(["method", "prompt_id"]).size().rename("pulls").reset_index()
    data = pd.concat(
        [
            prompts.merge(pulls[pulls["method"] == method].drop(columns="method"), how="left", on="prompt_id").assign(
                method=method
            )
            for method, prompts in maps.items()
        ]
    ).fillna({"pulls": 0})
    k, columns = data["cluster"].max() + 1, min(4, len(experiment.methods))
    rows = math.ceil(len(experiment.methods) / columns)
    colours = plt.get_cmap("turbo", k)
    picture, panels = plt.subplots(
        rows,
        columns,
        figsize=(3.4 * columns, 3.4 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes in panels.flat[len(experiment.methods) :]:
        axes.set_visible(False)
    for axes, method in zip(panels.flat, experiment.methods, strict=False):
        part = data[data["method"] == method]
        drawn = part[part["pulls"] > 0]
        axes.scatter(part["x"], part["y"], s=3, color="0.75", linewidths=0)
        axes.scatter(
            drawn["x"], drawn["y"], s=10 + 8 * drawn["pulls"], c=colours(drawn["cluster"]), linewidths=0, alpha=0.8
        )
        for cluster, centre in apart(maps[method].groupby("cluster")[["x", "y"]].mean()).iterrows():
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colours(cluster), "alpha": 0.85}
            axes.text(centre["x"], centre["y"], str(cluster), ha="center", va="center", fontsize=7, bbox=box)
        axes.set_title(f"{method}: {len(drawn)} of {len(part)} prompts")
    picture.supxlabel("first principal component", fontsize=9)
    picture.supylabel("second principal component", fontsize=9)
    told = caption(
        experiment,
        "The training prompts in the plane of their embeddings' two first principal components. Numbers stand at the "
        f"clusters' centres. Coloured prompts, by cluster, were annotated in {many(experiment.rounds, 'round')} of "
        f"{many(experiment.steps, 'step')}, the larger, the more often they were drawn in "
        + ("all seeds together" if len(experiment.seeds) > 1 else "all")
        + "; grey ones were not.",
    )
    save(picture, figure, data[["method", "prompt_id", "cluster", "x", "y", "pulls"]], told)
    return Summary(f"{len(data)} prompts of {len(maps)} methods in {k} clusters -> {figure}")


def apart(centres: pd.DataFrame) -> pd.DataFrame:
    """Label places x, y with those that would overlap moved upwards; a label takes a twelfth of their range."""
    gap = (centres.max() - centres.min()).max() / 12
    placed: list[pd.Series] = []
    for _, centre in centres.sort_values("y").iterrows():
        while any((abs(other - centre) < gap).all() for other in placed):
            centre = centre + pd.Series({"x": 0, "y": gap / 4})
        placed.append(centre)
    return pd.DataFrame(placed, index=centres.sort_values("y").index).sort_index()


run(main)
