"""A map of the training prompts with their clusters and the prompts that each method annotated."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from prefloop.report.plotting import panel_grid

MAX_COLUMNS = 4  # methods per row


def with_pulls(maps: Mapping[str, pd.DataFrame], annotated: pd.DataFrame) -> pd.DataFrame:
    """The maps of all methods in one table, with the number of times that each method drew each prompt.

    Args:
        maps: Rows of clusters.csv, by method.
        annotated: From `results.annotated`.
    """
    pulls = annotated.groupby(["method", "prompt_id"]).size().rename("pulls").reset_index()
    tables = []
    for method, prompts in maps.items():
        own = pulls[pulls["method"] == method].drop(columns="method")
        tables.append(prompts.merge(own, how="left", on="prompt_id").assign(method=method))
    return pd.concat(tables).fillna({"pulls": 0})


def draw_map(data: pd.DataFrame) -> Figure:
    """Draw a panel per method: annotated prompts in the color of their cluster, the others grey."""
    methods = data["method"].unique()
    colors = plt.get_cmap("turbo", data["cluster"].max() + 1)
    figure, panels = panel_grid(len(methods), MAX_COLUMNS, (3.4, 3.4), (0, 0))
    for axes, method in zip(panels.flat, methods, strict=False):
        part = data[data["method"] == method]
        drawn = part[part["pulls"] > 0]
        axes.scatter(part["x"], part["y"], s=3, color="0.75", linewidths=0)
        axes.scatter(
            drawn["x"], drawn["y"], s=10 + 8 * drawn["pulls"], c=colors(drawn["cluster"]), linewidths=0, alpha=0.8
        )
        for cluster, center in without_overlap(part.groupby("cluster")[["x", "y"]].mean()).iterrows():
            box = {
                "boxstyle": "round,pad=0.15",
                "facecolor": "white",
                "edgecolor": colors(int(str(cluster))),
                "alpha": 0.85,
            }
            axes.text(center["x"], center["y"], str(cluster), ha="center", va="center", fontsize=7, bbox=box)
        axes.set_title(f"{method}: {len(drawn)} of {len(part)} prompts")
    figure.supxlabel("first principal component", fontsize=9)
    figure.supylabel("second principal component", fontsize=9)
    return figure


def without_overlap(centers: pd.DataFrame) -> pd.DataFrame:
    """Positions x, y of labels, with overlapping ones moved up; the size of a label is a twelfth of the range."""
    gap = (centers.max() - centers.min()).max() / 12
    placed: list[pd.Series] = []
    for _, center in centers.sort_values("y").iterrows():
        while any((abs(label - center) < gap).all() for label in placed):
            center = center + pd.Series({"x": 0, "y": gap / 4})
        placed.append(center)
    return pd.DataFrame(placed, index=centers.sort_values("y").index).sort_index()
