"""Draw how large the DPO gradient of single pairs is, against what is meant to foretell it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.correlations import Resampled, group_draws, partial, spearman_resampled
from prefloop.experiment import Experiment
from prefloop.figures import COLOURS, save
from prefloop.figures.curves import plain_log
from prefloop.progress import Summary
from prefloop.rows import InputError, read_rows
from prefloop.seeds import rng_for

PANELS = {
    "pfp": "preference perplexity (nats)",
    "dpo_weight": "DPO weight σ(−βM)",
    "length_difference": "length difference\nchosen − rejected (tokens)",
}


def main(*, experiment: Annotated[Experiment, arg(name="")], gradients: Path, figure: Path) -> Summary:
    """Draw the gradient's norm of every pair against PFP, DPO weight and length, with Spearman's ρ.

    Args:
        experiment: Which runs.
        gradients: gradients.jsonl of one of their rounds.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    where = run_of(experiment, gradients)
    data = pd.DataFrame(read_rows(gradients, ["prompt_id", "pfp", "dpo_weight", "n_chosen", "grad_norm"]))
    data["length_difference"] = data["n_chosen"] - data["n_rejected"]
    # One draw of prompts for all correlations, so that they can be compared.
    draws = group_draws(data["prompt_id"].to_numpy(), rng_for(0, "figure_gradients"))
    with_norm = {name: spearman_resampled(data[name], data["grad_norm"], draws) for name in PANELS}
    picture, panels = plt.subplots(1, len(PANELS), figsize=(8, 3), sharey=True, layout="constrained")
    for axes, (name, label) in zip(panels, PANELS.items(), strict=True):
        axes.scatter(data[name], data["grad_norm"], s=7, alpha=0.45, color=COLOURS[0], linewidths=0)
        axes.set_title(f"ρ {with_norm[name]}", fontsize=9)
        axes.set_xlabel(label)
    if (data["grad_norm"] > 0).all():
        plain_log(panels[0].yaxis)
    panels[0].set_ylabel("2-norm of the DPO gradient\n(trained parameters)")
    with_length = spearman_resampled(data["pfp"], data["length_difference"], draws)
    sentences = told(data, where, with_norm, with_length)
    alone = replace(experiment, methods=(where["method"],), trained_by=(), seeds=(where["seed"],))
    save(picture, figure, data, caption(alone, *sentences, shown="brackets"))
    return Summary(f"{len(data)} pairs -> {figure}", found=f"{sentences[-2]} {sentences[-1]}")


def run_of(experiment: Experiment, path: Path) -> dict:
    """The method, seed and round in whose folder the file lies."""
    for where, folder in experiment.folders():
        if folder.resolve() == path.resolve().parent:
            return where
    raise InputError(f"{path}: lies in no round's folder of {experiment.root}'s methods and seeds; give one that does")


def combined(function, *parts: Resampled) -> Resampled:
    """A statistic of statistics, resample by resample."""
    return Resampled(
        float(function(*(np.array(part.estimate) for part in parts))), function(*(part.resamples for part in parts))
    )


def told(data: pd.DataFrame, where: dict, with_norm: dict[str, Resampled], with_length: Resampled) -> list[str]:
    """What this figure's caption says before what every caption says; the last two sentences are the findings."""
    norm_pfp, norm_length = with_norm["pfp"], with_norm["length_difference"]
    given_length = combined(partial, norm_pfp, norm_length, with_length)
    _, low, high = combined(lambda a, b: np.abs(a) - np.abs(b), norm_pfp, norm_length).interval
    closer = "pfp more closely than the length difference"
    if not (low > 0 or high < 0):
        closer = "pfp and the length difference alike, as the interval of the difference of their |ρ| holds 0"
    elif high < 0:
        closer = "the length difference more closely than pfp"
    return [
        "The gradient of the DPO loss of single pairs over the parameters that are trained, by the policy of "
        f"{where['method']}, seed {where['seed']}, before round {where['round']}, against what is meant to foretell "
        "its size, and against length.",
        f"{len(data)} pairs of {data['prompt_id'].nunique()} prompts, drawn at random; ρ is Spearman's.",
        "Prompts are resampled with all their pairs, as pairs of one prompt are not independent.",
        f"PFP itself has ρ {with_length} with the length difference, and with the gradient's norm, "
        f"where that difference is held equal, ρ {given_length} (partial rank correlation).",
        f"The norm follows {closer}.",
    ]


run(main)
