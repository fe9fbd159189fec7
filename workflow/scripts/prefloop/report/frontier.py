"""The reward–KL frontier: quality against the divergence from the initial policy."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefloop.config.experiment import Experiment
from prefloop.evaluation.results import interval_by_round
from prefloop.report.plotting import error_lengths, legend_above, line_style
from prefloop.report.win_rates import MAX_BANDS, MEASURES, measures_of, opponent_label

POLICY = ["method", "round"]
KL_COLUMNS = {"mean": "kl", "low": "kl_low", "high": "kl_high"}


def frontier_measures(rows: pd.DataFrame) -> list[str]:
    """The evaluator's reward (the win rate if it gives none) and, if there is one, the config's feedback."""
    measures = measures_of(rows)
    return ["reward" if "reward" in measures else "win", *(["feedback"] if "feedback" in measures else [])]


def frontier_points(rows: pd.DataFrame, kl: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Mean and CI of each measure and of KL by method and round; the initial policy has the method `initial`.

    Args:
        rows: From `results.judgments`.
        kl: Columns method, round, seed, prompt_id, kl.
        measures: Columns of `rows`.
    """
    initial = rows[rows["round"] == 0].drop_duplicates(["prompt_id", "sample"]).assign(method="initial")
    policies = pd.concat([initial, rows[rows["round"] > 0]])
    quality = pd.concat([interval_by_round(policies, measure).assign(measure=measure) for measure in measures])
    data = quality.merge(interval_by_round(kl, "kl").rename(columns=KL_COLUMNS), how="left", on=POLICY)
    data.loc[data["round"] == 0, list(KL_COLUMNS.values())] = 0.0
    return data


def seed_points(rows: pd.DataFrame, kl: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Mean KL and mean of each measure for every run."""
    keys = [*POLICY, "seed"]
    mean_kl = kl.groupby(keys, sort=False)["kl"].mean().reset_index()
    tables = []
    for measure in measures:
        trained = rows[rows["round"] > 0].astype({measure: float})
        of_prompts = trained.groupby([*keys, "prompt_id"], sort=False)[measure].mean()  # over samples
        means = of_prompts.groupby(keys, sort=False).mean().rename("mean").reset_index()
        tables.append(means.merge(mean_kl, on=keys).assign(measure=measure))
    return pd.concat(tables)


def draw_frontier(experiment: Experiment, data: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """Draw one panel per measure; `seeds` may be empty."""
    measures = data["measure"].unique()
    size = (0.6 + 3.3 * len(measures), 4.3 if len(experiment.methods) > MAX_BANDS else 3.3)
    figure, _ = plt.subplots(1, len(measures), figsize=size, layout="constrained")
    labels = MEASURES | {"win": f"win rate against {opponent_label(experiment.opponents[0])}"}
    for axes, measure in zip(figure.axes, measures, strict=True):
        dots = seeds[seeds["measure"] == measure] if len(seeds) else seeds
        draw_panel(axes, experiment, data[data["measure"] == measure], dots)
        axes.set_xlabel("KL(policy ‖ initial policy)\n(nats per response)")
        axes.set_ylabel(labels[measure])
    legend_above(figure, figure.axes[0])
    return figure


def draw_panel(axes: Axes, experiment: Experiment, data: pd.DataFrame, seeds: pd.DataFrame) -> None:
    """Draw a line per method through its rounds or, if there is only one round, a point and its seeds."""
    start = data[data["method"] == "initial"]
    for index, method in enumerate(experiment.methods):
        part, style = data[data["method"] == method].sort_values("round"), line_style(index)
        last = part["round"] == experiment.rounds
        crossed = part[last] if len(experiment.methods) > MAX_BANDS else part
        axes.errorbar(
            crossed["kl"],
            crossed["mean"],
            xerr=error_lengths(crossed, *KL_COLUMNS.values()),
            yerr=error_lengths(crossed),
            fmt="none",
            ecolor=style["color"],
            elinewidth=0.7,
        )
        if experiment.rounds > 1:
            line = pd.concat([start, part])
            axes.plot(line["kl"], line["mean"], linewidth=1, **style | {"marker": ""})
        else:
            style["linestyle"] = ""
        if len(seeds):
            dots = seeds[seeds["method"] == method]
            axes.plot(dots["kl"], dots["mean"], markersize=2, **style)
            style["markerfacecolor"] = "none"  # so that the seeds stay visible
        for kl, mean, round_index in part[["kl", "mean", "round"]].itertuples(index=False):
            axes.plot(kl, mean, markersize=2.5 + 4 * round_index / experiment.rounds, **style | {"linestyle": ""})
        axes.plot([], [], label=method, markersize=5, **style)
    style = {"color": "black", "marker": "x", "linestyle": ""}
    axes.errorbar(start["kl"], start["mean"], yerr=error_lengths(start), elinewidth=0.7, **style)
    axes.plot([], [], label="initial policy", **style)


def points_clause(experiment: Experiment) -> str:
    """A clause for the caption that explains the points."""
    if experiment.rounds > 1:
        return "points are rounds, and markers grow with the round"
    return "small marks are seeds" if len(experiment.seeds) > 1 else "points are methods"
