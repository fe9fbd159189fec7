"""Draw preference perplexity against the reward gap and against the length difference."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.correlations import group_draws, spearman_resampled
from prefloop.experiment import Experiment
from prefloop.figures import COLOURS, save
from prefloop.metrics import pfp, reward_gap
from prefloop.pairs import all_pairs, read_responses, to_columns
from prefloop.progress import Summary
from prefloop.seeds import rng_for

MOST_POINTS = 4000  # drawn and written; Spearman's ρ is of all pairs
RESAMPLES = 1000
LABELS = {"reward_gap": "reward gap", "length_difference": "length difference\nchosen − rejected (tokens)"}


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw every ordered pair that was annotated, of all methods, with Spearman's ρ and its 95 % bootstrap interval.

    Rewards by several feedbacks have no common unit: then the reward gap is left out.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    parts = []
    for where, folder in experiment.step_folders():
        pairs, _ = all_pairs(read_responses(folder / "rewards.jsonl", folder / "pfp.jsonl"))
        columns = to_columns(pairs)
        values = {
            "prompt_id": [pair.chosen["prompt_id"] for pair in pairs],
            "pfp": pfp(columns, rng_for(0)),
            "reward_gap": reward_gap(columns),
            "length_difference": columns["n_chosen"] - columns["n_rejected"],
        }
        parts.append(pd.DataFrame(where | values))
    table = pd.concat(parts, ignore_index=True)
    rows = np.sort(rng_for(0, "figure_pfp").permutation(len(table))[:MOST_POINTS])
    data = table.iloc[rows]
    feedbacks = list(dict.fromkeys(experiment.trained_by))
    shown = [name for name in LABELS if name != "reward_gap" or len(feedbacks) < 2]
    draws = group_draws(table["prompt_id"].to_numpy(), rng_for(0, "figure_pfp prompts"), RESAMPLES)
    picture, panels = plt.subplots(
        1, len(shown), figsize=(0.6 + 3.2 * len(shown), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, other in zip(panels[0], shown, strict=True):
        axes.scatter(data[other], data["pfp"], s=5, alpha=0.35, color=COLOURS[0], linewidths=0)
        axes.set_title(f"ρ {spearman_resampled(table[other], table['pfp'], draws)}", fontsize=9)
        axes.set_xlabel(LABELS[other])
    panels[0][0].set_ylabel("preference perplexity (nats)")
    told = caption(experiment, *told_of(table, data, feedbacks))
    save(picture, figure, data, told)
    return Summary(f"{len(table)} pairs -> {figure}")


def told_of(table: pd.DataFrame, drawn: pd.DataFrame, feedbacks: list[str]) -> list[str]:
    """What this figure's caption says before what every caption says."""
    several = len(feedbacks) > 1
    against = "the difference in length" if several else "the reward gap and against the difference in length"
    count = f"{len(table)} pairs of {table['prompt_id'].nunique()} prompts"
    return [
        "Preference perplexity logp(rejected) − logp(chosen) of every ordered pair of annotated responses (all "
        f"methods, seeds, rounds and steps) against {against}. A strong correlation with length means that choosing by "
        "preference perplexity chooses by length. Responses that were cut have one length, so a pair of them lies at a "
        "difference of 0.",
        f"Reward gaps are not drawn, as {len(feedbacks)} feedbacks trained the methods, whose rewards have no common "
        f"unit: {'; '.join(feedbacks)}."
        if several
        else "",
        f"{count}, of which {len(drawn)} drawn." if len(drawn) < len(table) else f"{count}.",
        "ρ is Spearman's, of all pairs together: a method that annotates more counts more. Brackets are 95 % bootstrap "
        "intervals over prompts, drawn with all their pairs, of all methods and seeds, as these are not independent.",
    ]


run(main)
