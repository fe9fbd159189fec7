"""Draw the reward–KL frontier: quality against the divergence from the initial policy."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import arrays, last_round
from prefloop.evaluation.results import judgments, kl_rows
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.frontier import draw_frontier, frontier_measures, frontier_points, points_clause, seed_points
from prefloop.report.labels import for_figure
from prefloop.report.plotting import note_evaluator, save_figure
from prefloop.report.significance import significance_clause, significance_sentence
from prefloop.report.win_rates import MEASURES


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw quality against KL divergence; each point is a round, crosses are 95 % CIs.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    rows = judgments(experiment)
    kl = kl_rows(experiment).groupby(["method", "round", "seed", "prompt_id", "family"], sort=False)["kl"].mean()
    kl = kl.reset_index()
    measures = frontier_measures(rows)
    data, seeds = frontier_points(rows, kl, measures), pd.DataFrame()
    if experiment.rounds == 1 and len(experiment.seeds) > 1:
        seeds = seed_points(rows, kl, measures)
    picture = draw_frontier(*for_figure(experiment, data), for_figure(experiment, seeds)[1])
    note_evaluator(picture, experiment)
    last_kl = {m: kl[(kl["method"] == m) & (kl["round"] == experiment.rounds)] for m in experiment.methods}
    values = arrays(last_round(rows, experiment), measures[0])
    clauses = [
        significance_clause(experiment, values, f"final {MEASURES[measures[0]]}"),
        significance_clause(experiment, arrays(last_kl, "kl"), "final KL"),
    ]
    text = caption(
        "Quality of samples at temperature "
        f"{experiment.temperature:g} against KL from the initial policy, exact at every position of responses sampled "
        f"at temperature 1; {points_clause(experiment)}.",
        interval_sentence(experiment, "crosses"),
        significance_sentence(clauses, len(experiment.seeds)),
    )
    save_figure(picture, figure, pd.concat([data.assign(seed=pd.NA), seeds], ignore_index=True), text)
    return Summary(f"{len(data)} points of {len(experiment.methods)} methods -> {figure}")


run(main)
