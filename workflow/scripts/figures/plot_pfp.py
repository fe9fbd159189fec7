"""Draw preference perplexity against the reward gap and against the length difference."""

from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.core.seeds import rng_for
from prefloop.evaluation.correlations import group_draws, spearman_resampled
from prefloop.report.captions import caption
from prefloop.report.feedback_labels import training_feedback_labels
from prefloop.report.plotting import save_figure
from prefloop.report.rank_scatter import LENGTH_LABEL, annotated_pairs, draw_scatter

MAX_POINTS = 4000  # drawn and written; Spearman's ρ uses all pairs
RESAMPLES = 1000
X_LABELS = {"reward_gap": "reward gap", "length_difference": LENGTH_LABEL}


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw all ordered annotated pairs of all methods, with Spearman's ρ and its 95 % CI.

    If methods were trained with several feedbacks, reward gaps have no common unit and are left out.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    table = annotated_pairs(experiment)
    data = table.iloc[np.sort(rng_for(0, "figure_pfp").permutation(len(table))[:MAX_POINTS])]
    feedbacks = training_feedback_labels(experiment)
    labels = {name: label for name, label in X_LABELS.items() if name != "reward_gap" or len(feedbacks) < 2}
    draws = group_draws(table["prompt_id"].to_numpy(), rng_for(0, "figure_pfp prompts"), RESAMPLES)
    rho = {name: spearman_resampled(table[name], table["pfp"], draws) for name in labels}
    y = ("pfp", "preference perplexity (nats)")
    picture = draw_scatter(data, labels, y, rho, 0.6 + 3.2 * len(labels), s=5, alpha=0.35)
    without = f"; reward gaps have no common unit, because {len(feedbacks)} feedbacks trained: {'; '.join(feedbacks)}"
    drawn = f", of which {len(data)} are drawn" if len(data) < len(table) else ""
    text = caption(
        f"Preference perplexity logp(rejected) − logp(chosen) of {len(table)} pairs of annotated responses of "
        f"{table['prompt_id'].nunique()} prompts{drawn}, over all runs{without if len(feedbacks) > 1 else ''}.",
        "ρ is Spearman's over all pairs; brackets are 95 % bootstrap CIs over prompts with all their pairs.",
        "A strong correlation with length means that selecting pairs by PFP selects by length.",
    )
    save_figure(picture, figure, data, text)
    return Summary(f"{len(table)} pairs -> {figure}")


run(main)
