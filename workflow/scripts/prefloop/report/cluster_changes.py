"""Changes of the win rate by cluster of the eval prompts."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from prefloop.config.experiment import Experiment
from prefloop.core.csv_files import read_frame
from prefloop.core.errors import InputError
from prefloop.evaluation.inference import mean_interval
from prefloop.report.plotting import error_lengths, line_style, panel_grid
from prefloop.report.win_rates import opponent_label

MIN_PROMPTS = 3  # smaller clusters are pooled
MAX_COLUMNS = 4  # methods per row


def prompt_clusters(prompts: list[str], path: Path) -> pd.Series:
    """The cluster of each prompt, in the order of `prompts`.

    Raises:
        InputError: The file does not have the cluster of a prompt.
    """
    table = read_frame(path).set_index("prompt_id")["cluster"]
    if missing := set(prompts) - set(table.index):
        raise InputError(f"{path}: no cluster of prompt {min(missing)}, which was evaluated; run cluster_prompts again")
    return table[prompts]


def grouped(labels: pd.Series) -> tuple[dict[str, np.ndarray], list[str]]:
    """Indices of prompts by cluster, with all prompts as `all` and small clusters as `rest`; and the pooled
    clusters."""
    sizes = labels.value_counts().sort_index()
    pooled = sizes.index[sizes < MIN_PROMPTS]
    groups = {str(c): np.flatnonzero(labels == c) for c in sizes.index if c not in pooled}
    if len(pooled):
        groups["rest"] = np.flatnonzero(labels.isin(pooled))
    return groups | {"all": np.arange(len(labels))}, [str(c) for c in pooled]


def changes_by_group(changes: dict[str, pd.DataFrame], groups: dict[str, np.ndarray]) -> pd.DataFrame:
    """Mean change with CI by method and group; `changes` are [seeds, prompts]."""
    return pd.DataFrame(
        {"method": method, "cluster": name, "prompts": len(columns)} | mean_interval(values.iloc[:, columns])._asdict()
        for method, values in changes.items()
        for name, columns in groups.items()
    )


def draw_changes(experiment: Experiment, data: pd.DataFrame) -> Figure:
    """Draw a panel per method, with a point and bar per cluster and for all prompts at the bottom."""
    names = data["cluster"].unique().tolist()
    heights = dict(zip(names, [*range(len(names) - 1), len(names) - 0.5], strict=True))
    sizes = data.drop_duplicates("cluster").set_index("cluster")["prompts"]
    columns = min(MAX_COLUMNS, len(experiment.methods))
    figure, panels = panel_grid(len(experiment.methods), MAX_COLUMNS, (1.7, 0.5 + 0.19 * len(names)), (1, 0.5))
    for index, (axes, method) in enumerate(zip(panels.flat, experiment.methods, strict=False)):
        part = data[data["method"] == method]
        axes.axvline(0, color="0.4", linewidth=0.8)
        style = line_style(index) | {"linestyle": ""}
        y = part["cluster"].map(heights)
        axes.errorbar(part["mean"], y, xerr=error_lengths(part), capsize=2, markersize=4, **style)
        axes.axhline(len(names) - 1.25, color="0.6", linewidth=0.6)
        axes.set_title(method, fontsize=9)
        axes.tick_params(axis="y", labelsize=7)
        axes.tick_params(labelbottom=index + columns >= len(experiment.methods))  # also above a hidden panel
    panels[0][0].set_yticks(list(heights.values()), [f"{name} (n = {sizes[name]})" for name in names])
    panels[0][0].set_ylim(len(names), -0.7)
    figure.supxlabel(f"change of win rate against {opponent_label(experiment.opponents[0])}", fontsize=9)
    figure.supylabel("cluster (prompts)", fontsize=9)
    return figure
