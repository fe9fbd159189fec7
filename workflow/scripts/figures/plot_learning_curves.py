"""Draw reward and win rate against the number of labels, by method."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import arrays, last_round
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.labels import for_figure
from prefloop.report.learning_curves import draw_learning_curves, shown_measures
from prefloop.report.plotting import note_evaluator, save_figure
from prefloop.report.quality_curves import quality_by_cost, seeds_by_cost
from prefloop.report.significance import significance_clause, significance_sentence
from prefloop.report.win_rates import MAX_BANDS, MEASURES, measures_of, opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw quality against labels; every point is a round, small ones are seeds, bands are 95 % CIs.

    Args:
        figure: Where the figure goes, next to its .svg, .png, .csv and caption .rst.
    """
    table = judgments(experiment)
    measures = shown_measures(measures_of(table))
    data, seeds = quality_by_cost(experiment, table, measures), seeds_by_cost(experiment, table, measures)
    picture = draw_learning_curves(*for_figure(experiment, data), for_figure(experiment, seeds)[1])
    note_evaluator(picture, experiment)
    ends = last_round(table, experiment)
    values = arrays({method: ends[method] for method in experiment.methods}, measures[0])
    text = caption(
        f"Quality on eval prompts after every round ({', '.join(MEASURES[name] for name in measures)} against "
        f"{opponent_label(experiment.opponents[0])}) against labels, that is scored responses or questions to a judge"
        f"{'; small points are seeds' * (len(experiment.seeds) > 1)}.",
        "" if len(experiment.methods) > MAX_BANDS else interval_sentence(experiment, "bands"),
        significance_sentence([significance_clause(experiment, values, f"final {MEASURES[measures[0]]}")]),
    )
    save_figure(picture, figure, pd.concat([data.assign(seed=pd.NA), seeds], ignore_index=True), text)
    return Summary(f"{len(data)} points -> {figure}")


run(main)
