"""Heatmaps of arms by step: the share of prompts from each cluster, and the arms' scores."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

MAX_COLUMNS = 6  # methods per row
LABELS = {"share": "share of the\nstep's prompts", "score": "arm score (UCB)"}


def arm_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Share of a step's prompts and score by method, round, step and cluster, averaged over seeds.

    Args:
        table: From `results.arms`.
    """
    of_step = table.groupby(["method", "seed", "round", "step"])["drawn"].transform("sum")
    keys = ["method", "round", "step", "cluster"]
    shares = table.assign(share=table["drawn"] / of_step)
    return shares.groupby(keys, sort=False)[["share", "score"]].mean().reset_index()


def draw_heatmaps(methods: tuple[str, ...], shares: pd.DataFrame) -> Figure:
    """Draw two panels per method, the share above the score; rows are clusters, columns are steps."""
    data = shares.assign(time=shares["round"].astype(str) + "." + shares["step"].astype(str))
    same_clusters = data.groupby("method")["cluster"].nunique().nunique() == 1
    columns = min(MAX_COLUMNS, len(methods))
    blocks = math.ceil(len(methods) / columns)
    size = (1.6 + 2.1 * columns, blocks * max(3.4, 1.2 + 0.36 * data["cluster"].nunique()))
    figure, panels = plt.subplots(
        2 * blocks, columns, figsize=size, sharex=True, sharey=same_clusters, squeeze=False, layout="constrained"
    )
    for row, (value, label) in enumerate(LABELS.items()):
        limits = {"vmin": 0 if value == "share" else data[value].min(), "vmax": data[value].max()}
        for index in range(blocks * columns):
            axes = panels[2 * (index // columns) + row][index % columns]
            if index >= len(methods):
                axes.set_visible(False)
                continue
            part = data[data["method"] == methods[index]]
            grid = part.pivot(index="cluster", columns="time", values=value)[part["time"].unique()]
            image = axes.imshow(grid, aspect="auto", cmap="cividis", **limits)
            axes.grid(False)
            axes.set_yticks(range(len(grid)), grid.index, fontsize=6 if len(grid) > 20 else 7)
            axes.set_xticks(range(len(grid.columns)), grid.columns, rotation=90 if len(grid.columns) > 8 else 0)
            if row == 0:
                axes.set_title(methods[index])
            else:
                axes.set_xlabel("round.step")
            if index % columns == 0:
                axes.set_ylabel("cluster")
        for line in panels[row::2]:
            figure.colorbar(image, ax=line.tolist(), label=label, pad=0.02)
    return figure
