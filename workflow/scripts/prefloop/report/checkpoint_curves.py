"""Win rates during training, at every checkpoint and the end of every round."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefloop.config.experiment import Experiment
from prefloop.evaluation.comparisons import arrays, not_significant_pairs
from prefloop.evaluation.results import training
from prefloop.report.plotting import legend_above, line_style, panel_grid
from prefloop.report.significance import pairs_clause
from prefloop.report.win_rates import MAX_BANDS, draw_rates, opponent_label, win_rates

MAX_COLUMNS = 2  # temperatures per row


def checkpoint_rates(rows: pd.DataFrame, lengths: pd.Series) -> pd.DataFrame:
    """Win rates with CIs and mean optimizer step, by temperature, method, round and checkpoint."""
    return at_steps(win_rates(rows, ["temperature", "method", "round", "checkpoint"]), lengths)


def round_lengths(experiment: Experiment) -> pd.Series:
    """Number of optimizer steps by method, seed and round, for methods whose checkpoints are evaluated."""
    table = training(replace(experiment, methods=experiment.by_checkpoint.methods))
    return table.groupby(["method", "seed", "round"]).size()


def at_steps(data: pd.DataFrame, lengths: pd.Series) -> pd.DataFrame:
    """Add the column `step` to `data`: optimizer steps since the start of the first round, averaged over seeds.

    A round begins where the previous one ended; the initial policy is at 0.
    """
    ends = lengths.groupby(level=["method", "seed"]).cumsum()
    bounds = pd.DataFrame({"start": ends - lengths, "end": ends}).groupby(level=["method", "round"]).mean()
    merged = data.merge(bounds.reset_index(), on=["method", "round"], how="left")
    step = np.where(merged["checkpoint"] < 0, merged["end"], merged["start"] + merged["checkpoint"])
    return merged.drop(columns=["start", "end"]).assign(step=np.where(merged["round"] == 0, 0, step))


def draw_checkpoints(experiment: Experiment, data: pd.DataFrame) -> Figure:
    """Draw one panel per temperature; open markers are checkpoints, filled ones are ends of rounds."""
    methods, temperatures = experiment.by_checkpoint.methods, data["temperature"].unique()
    crowded = len(methods) > MAX_BANDS
    figure, panels = panel_grid(
        len(temperatures), MAX_COLUMNS, (3, 3.8 if crowded else 2.7), (1, 0.6 if crowded else 0)
    )
    for axes, temperature in zip(panels.flat, temperatures, strict=False):
        part = data[data["temperature"] == temperature]
        for method in methods:
            style = line_style(experiment.methods.index(method))
            curve = part[(part["round"] == 0) | (part["method"] == method)].sort_values("step", kind="stable")
            draw_rates(axes, curve, "step", method, style | {"markerfacecolor": "white"}, not crowded)
            ends = curve[(curve["round"] > 0) & (curve["checkpoint"] < 0)]
            axes.plot(ends["step"], ends["win_rate"], markersize=4, **style | {"linestyle": ""})
        axes.axhline(0.5, color="0.4", linewidth=0.8)
        axes.set_title(f"sampling temperature {temperature:g}", fontsize=9)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelbottom=True)  # there may be no panel below
    for axes in panels[:, 0]:
        axes.set_ylabel(f"win rate against\n{opponent_label(experiment.opponents[0])}")
    legend_above(figure, panels[0][0])
    return figure


def end_clause(rows: pd.DataFrame, experiment: Experiment, temperature: float) -> str:
    """A clause with the policies, including the initial one, that do not differ significantly at one temperature."""
    ends = rows[((rows["round"] == experiment.rounds) & (rows["checkpoint"] < 0)) | (rows["round"] == 0)]
    by_method = ends[ends["temperature"] == temperature].groupby("method", sort=False)
    parts = {str(method): part for method, part in by_method}
    pairs = not_significant_pairs(arrays(parts, "win"))
    return pairs_clause(pairs, f"final win rate at temperature {temperature:g}")
