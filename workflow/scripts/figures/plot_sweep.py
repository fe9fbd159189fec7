"""Draw quality after the last round by the values of swept settings."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import arrays, last_round
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.plotting import note_evaluator, save_figure
from prefloop.report.significance import significance_clause, significance_sentence
from prefloop.report.sweep_curves import SweptMethod, draw_sweep, quality_by_value
from prefloop.report.win_rates import MEASURES, measures_of, opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], points: tuple[SweptMethod, ...], figure: Path) -> Summary:
    """Draw the evaluator's reward, or the win rate if it gives none, one panel per swept key; bars are 95 % CIs.

    Args:
        points: The swept values of every method.
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    rows = judgments(experiment)
    measure = "reward" if "reward" in measures_of(rows) else "win"
    ends = last_round(rows, experiment)
    values = arrays({method: ends[method] for method in experiment.methods}, measure)
    data = quality_by_value(experiment, points, values, measure)
    picture = draw_sweep(experiment, data)
    note_evaluator(picture, experiment)
    levels = "; horizontal lines are methods that are not swept" * bool((data["key"] == "").any())
    against = f" against {opponent_label(experiment.opponents[0])}" * (measure == "win")
    text = caption(
        f"{MEASURES[measure].capitalize()}{against} after the last round by the values of each swept setting, with a "
        f"line or mark for each combination of the others{levels}.",
        interval_sentence(experiment, "bars"),
        significance_sentence(
            [significance_clause(experiment, values, f"final {MEASURES[measure]}")], len(experiment.seeds)
        ),
    )
    save_figure(picture, figure, data, text)
    keys = [key for key in data["key"].unique() if key]
    return Summary(f"{len(values)} methods, {', '.join(keys)} -> {figure}")


run(main)
