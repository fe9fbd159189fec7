"""Draw final quality by the number of clusters."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import arrays, last_round
from prefloop.evaluation.results import judgments
from prefloop.report.arm_counts import arm_count_clauses, check_random_methods, draw_arm_counts, quality_by_arms
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.labels import for_figure
from prefloop.report.plotting import note_evaluator, save_figure
from prefloop.report.significance import significance_sentence
from prefloop.report.win_rates import measures_of


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path, at_random: tuple[str, ...] = ()) -> Summary:
    """Draw the last round's rewards and win rate by the number of clusters; bars are 95 % CIs.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
        at_random: Methods without arms, drawn as horizontal lines with bands; differences are from the first one.
    """
    check_random_methods(experiment, at_random)
    rows = judgments(experiment)
    parts = last_round(rows, experiment)
    measures = sorted(measures_of(rows), key=["reward", "feedback", "win"].index)
    values = {measure: arrays(parts, measure) for measure in measures}
    data = quality_by_arms(experiment, values, at_random)
    picture = draw_arm_counts(*for_figure(experiment, data))
    note_evaluator(picture, experiment)
    text = caption(
        "Quality after the last round by the number of clusters k among which the bandit chooses"
        + (
            f"; horizontal lines are methods without arms: {', '.join(map(experiment.label, at_random))}."
            if at_random
            else "."
        ),
        interval_sentence(experiment, "bars and bands" if at_random else "bars"),
        significance_sentence(arm_count_clauses(experiment, values, at_random), len(experiment.seeds)),
    )
    save_figure(picture, figure, data, text)
    return Summary(f"{len(experiment.methods)} methods, {data['clusters'].nunique()} numbers of clusters -> {figure}")


run(main)
