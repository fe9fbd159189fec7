"""Draw which clusters each step drew its prompts from, and what the arms' scores were."""

import math
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.experiment import Experiment
from prefloop.figures import save
from prefloop.progress import Summary
from prefloop.results import arms

ACROSS = 6  # methods beside each other; more go below


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw the arms over time, as means over seeds: share of the step's prompts above, score below.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    table = arms(experiment)
    table["share"] = table["drawn"] / table.groupby(["method", "seed", "round", "step"])["drawn"].transform("sum")
    data = table.groupby(["method", "round", "step", "cluster"], sort=False)[["share", "score"]].mean().reset_index()
    data["time"] = data["round"].astype(str) + "." + data["step"].astype(str)
    same = data.groupby("method")["cluster"].nunique().nunique() == 1
    columns = min(ACROSS, len(experiment.methods))
    blocks = math.ceil(len(experiment.methods) / columns)
    size = (1.6 + 2.1 * columns, blocks * max(3.4, 1.2 + 0.36 * data["cluster"].nunique()))
    picture, panels = plt.subplots(
        2 * blocks, columns, figsize=size, sharex=True, sharey=same, squeeze=False, layout="constrained"
    )
    for row, (value, label) in enumerate([("share", "share of the\nstep's prompts"), ("score", "arm score (UCB)")]):
        limits = {"vmin": 0 if value == "share" else data[value].min(), "vmax": data[value].max()}
        for place in range(blocks * columns):
            axes = panels[2 * (place // columns) + row][place % columns]
            if place >= len(experiment.methods):
                axes.set_visible(False)
                continue
            method = experiment.methods[place]
            part = data[data["method"] == method]
            grid = part.pivot(index="cluster", columns="time", values=value)[part["time"].unique()]
            image = axes.imshow(grid, aspect="auto", cmap="cividis", **limits)
            axes.grid(False)
            axes.set_yticks(range(len(grid)), grid.index, fontsize=6 if len(grid) > 20 else 7)
            axes.set_xticks(range(len(grid.columns)), grid.columns, rotation=90 if len(grid.columns) > 8 else 0)
            if row == 0:
                axes.set_title(method)
            else:
                axes.set_xlabel("round.step")
            if place % columns == 0:
                axes.set_ylabel("cluster")
        for line in panels[row::2]:
            picture.colorbar(image, ax=line.tolist(), label=label, pad=0.02)
    told = caption(
        experiment,
        "Above, the share of each step's prompts that every cluster gave; below, the arms' scores (upper confidence "
        "bounds) after the step, by round and step: a step's shares follow from the scores one column further left. "
        "Means over seeds. Methods that draw at random show their scores too, though they do not use them.",
    )
    save(picture, figure, data.drop(columns="time"), told)
    return Summary(f"{data['cluster'].nunique()} clusters -> {figure}")


run(main)
