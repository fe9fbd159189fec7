"""Draw the change of the win rate by cluster of prompts."""

from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import arrays, last_round
from prefloop.evaluation.inference import subtract
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, count_of, interval_sentence
from prefloop.report.cluster_changes import MIN_PROMPTS, changes_by_group, draw_changes, grouped, prompt_clusters
from prefloop.report.labels import for_figure
from prefloop.report.plotting import note_evaluator, save_figure
from prefloop.report.win_rates import opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], clusters: Path, figure: Path) -> Summary:
    """Draw the last round's win rate minus the initial policy's, by cluster; bars are 95 % CIs.

    Args:
        clusters: Clusters of the eval prompts, CSV: prompt_id, cluster.
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    rows, opponent = judgments(experiment), experiment.opponents[0]
    wins = arrays(last_round(rows, experiment), "win")
    # A policy's win rate against itself is ½.
    initial = np.array([[0.5]]) if opponent == "initial" else wins["initial"]
    prompts = sorted(rows["prompt_id"].unique())  # the columns of `wins`
    groups, pooled = grouped(prompt_clusters(prompts, clusters))
    data = changes_by_group({method: subtract(wins[method], initial) for method in experiment.methods}, groups)
    picture = draw_changes(*for_figure(experiment, data))
    note_evaluator(picture, experiment)
    of_clusters = data[data["cluster"] != "all"]
    outside = int(((of_clusters["low"] > 0) | (of_clusters["high"] < 0)).sum())
    rest = f"; clusters of fewer than {MIN_PROMPTS} prompts ({', '.join(pooled)}) are pooled as rest" if pooled else ""
    text = caption(
        f"Win rate against {opponent_label(opponent)} after the last round minus the initial policy's, by cluster of "
        f"the n eval prompts{rest}.",
        interval_sentence(experiment, "bars", differences=True),
        f"Of {count_of(len(of_clusters), 'CI')} of clusters, not corrected for their number, {outside} exclude 0; by "
        "chance one in twenty would, and more in small clusters.",
    )
    save_figure(picture, figure, data, text)
    return Summary(f"{len(prompts)} prompts in {len(groups) - 1} groups -> {figure}")


run(main)
