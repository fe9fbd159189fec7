"""Draw reward and win rate against the number of labels, by method."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import last_round
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.feedback_labels import evaluators_sentence
from prefloop.report.labels import for_figure
from prefloop.report.learning_curves import draw_learning_curves, shown_measures
from prefloop.report.plotting import note_evaluator, save_figure
from prefloop.report.quality_curves import quality_by_cost, seeds_by_cost
from prefloop.report.significance import final_clauses, significance_sentence
from prefloop.report.win_rates import MAX_BANDS, all_measures, leading_measures, measure_label, opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw quality against labels; each point is a round, small points are seeds, bands are 95 % CIs.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    table = judgments(experiment)
    measures = shown_measures(all_measures(table, experiment))
    data, seeds = quality_by_cost(experiment, table, measures), seeds_by_cost(experiment, table, measures)
    picture = draw_learning_curves(*for_figure(experiment, data), for_figure(experiment, seeds)[1])
    note_evaluator(picture, experiment)
    ends = last_round(table, experiment)
    final = ["reward" if "reward" in measures else "win", *leading_measures(measures)]
    text = caption(
        f"Quality on eval prompts after every round ({', '.join(map(measure_label, measures))} against "
        f"{opponent_label(experiment.opponents[0])}), by number of labels (scored responses or questions to a judge)"
        f"{'; small points are seeds' * (len(experiment.seeds) > 1)}.",
        "" if len(experiment.methods) > MAX_BANDS else interval_sentence(experiment, "bands"),
        significance_sentence(final_clauses(experiment, ends, final), len(experiment.seeds)),
        evaluators_sentence(experiment),
    )
    save_figure(picture, figure, pd.concat([data.assign(seed=pd.NA), seeds], ignore_index=True), text)
    return Summary(f"{len(data)} points -> {figure}")


run(main)
