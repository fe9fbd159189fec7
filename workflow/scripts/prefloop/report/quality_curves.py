"""Reward and win rate against cumulative cost."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from prefloop.config.evaluator_measures import is_rate
from prefloop.config.experiment import Experiment
from prefloop.evaluation.results import interval_by_round, means_of_seeds, spent, spent_by_seed
from prefloop.evaluation.sample_facts import sample_facts
from prefloop.report.plotting import legend_above, line_style
from prefloop.report.win_rates import MAX_BANDS, MEASURES, axis_label

COST_LABELS = {"flops": "FLOPs", "generated_tokens": "generated tokens"}
LABELS = {"labels": "labels"}  # drawn if a method chooses which responses get labels


def quality_by_cost(
    experiment: Experiment, table: pd.DataFrame, measures: list[str], divergence: bool = False
) -> pd.DataFrame:
    """Mean and CI of each measure by method and round, with the cumulative cost of alignment and `sample_facts`."""
    data = pd.concat([interval_by_round(table, name).assign(measure=name) for name in measures])
    keys = ["method", "round"]
    return data.merge(spent(experiment), on=keys).merge(sample_facts(table, experiment, divergence), on=keys)


def seeds_by_cost(experiment: Experiment, table: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Mean of each measure by method, round and seed, with the seed's own cost; empty with a single seed.

    Rounds begin at 1, because all seeds share the initial policy.
    """
    trained = table[table["round"] > 0]
    if len(experiment.seeds) == 1:
        trained = trained[:0]
    return means_of_seeds(trained, ["method", "round", "seed"], measures).merge(
        spent_by_seed(experiment), on=["method", "round", "seed"]
    )


def draw_quality(experiment: Experiment, data: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """Draw a row of panels per measure and a column per cost; costs that are always 0 are left out.

    Args:
        experiment: The runs.
        data: From `quality_by_cost`.
        seeds: From `seeds_by_cost`, drawn as small points; with many methods, only those of the last round.
    """
    measures = data["measure"].unique()
    labels = COST_LABELS | (LABELS if experiment.acquiring else {})
    costs = {cost: label for cost, label in labels.items() if data[cost].max() > 0}
    crowded = len(experiment.methods) > MAX_BANDS
    figure, panels = plt.subplots(
        len(measures),
        len(costs),
        figsize=(0.5 + 3.25 * len(costs), panel_height(len(measures), crowded) * len(measures)),
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for row, measure in enumerate(measures):
        panels[row][0].set_ylabel(axis_label(measure, experiment.opponents[0]))
        for axes, (cost, label) in zip(panels[row], costs.items(), strict=True):
            for index, method in enumerate(experiment.methods):
                part = data[(data["measure"] == measure) & (data["method"] == method)]
                dots = seeds[(seeds["measure"] == measure) & (seeds["method"] == method)]
                dots = dots[dots["round"] == experiment.rounds] if crowded else dots
                draw_curve(axes, part, dots, cost, index, not crowded)
            if is_rate(measure):
                axes.axhline(0.5, color="0.4", linewidth=0.8)
            if row == len(measures) - 1:
                axes.set_xlabel(label)
                axes.xaxis.set_major_locator(MaxNLocator(5))
                axes.xaxis.set_major_formatter(EngFormatter())
    legend_above(figure, panels[0][0])
    return figure


def panel_height(rows: int, crowded: bool) -> float:
    """The height of a panel in inches: higher with many methods, lower with rows of named evaluators."""
    height = 3.4 if crowded else 2.4
    return height if rows <= len(MEASURES) else 0.8 * height


def draw_curve(axes: Axes, part: pd.DataFrame, dots: pd.DataFrame, cost: str, index: int, band: bool) -> None:
    """Draw a method's means by round over a cost, its seeds as small points and, if there is room, its CIs as a band.

    Args:
        axes: The panel.
        part: The method's rows of one measure, from `quality_by_cost`.
        dots: The same from `seeds_by_cost`.
        cost: Column of the cost.
        index: Index of the method, for its style.
        band: Whether to draw the CIs.
    """
    part, style = part.sort_values("round"), line_style(index)
    axes.plot(part[cost], part["mean"], label=part["method"].iloc[0], markersize=4, **style)
    axes.plot(dots[cost], dots["mean"], markersize=3, **style | {"linestyle": "", "markeredgewidth": 0, "alpha": 0.6})
    if band:
        axes.fill_between(part[cost], part["low"], part["high"], alpha=0.15, color=style["color"], linewidth=0)
