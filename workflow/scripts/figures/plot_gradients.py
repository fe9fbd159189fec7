"""Draw the norm of the DPO gradient of single pairs against three predictors."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.core.seeds import rng_for
from prefloop.evaluation.correlations import group_draws, spearman_resampled
from prefloop.evaluation.figure_rows import gradient_rows
from prefloop.report.captions import caption
from prefloop.report.curves import plain_log
from prefloop.report.plotting import save_figure
from prefloop.report.rank_scatter import LENGTH_LABEL, draw_scatter, partial_correlation, run_of_file, stronger_of

X_LABELS = {
    "pfp": "preference perplexity (nats)",
    "dpo_weight": "DPO weight σ(−βM)",
    "length_difference": LENGTH_LABEL,
}
COMPARED = {1: "better than", 0: "not significantly better or worse than", -1: "worse than"}


def main(*, experiment: Annotated[Experiment, arg(name="")], gradients: Path, figure: Path) -> Summary:
    """Draw the gradient norm of every pair against PFP, DPO weight and length difference, with Spearman's ρ.

    Args:
        gradients: The gradients.jsonl of a round of the experiment.
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    source = run_of_file(experiment, gradients)
    data = pd.DataFrame(gradient_rows(gradients))
    data["length_difference"] = data["n_chosen"] - data["n_rejected"]
    # All correlations use the same draws of prompts, so that they can be compared.
    draws = group_draws(data["prompt_id"].to_numpy(), rng_for(0, "figure_gradients"))
    rho = {name: spearman_resampled(data[name], data["grad_norm"], draws) for name in X_LABELS}
    y = ("grad_norm", "2-norm of the DPO gradient\n(trained parameters)")
    picture = draw_scatter(data, X_LABELS, y, rho, 8, s=7, alpha=0.45)
    if (data["grad_norm"] > 0).all():
        plain_log(picture.axes[0].yaxis)
    with_length = spearman_resampled(data["pfp"], data["length_difference"], draws)
    given_length = partial_correlation(rho["pfp"], rho["length_difference"], with_length)
    compared = COMPARED[stronger_of(rho["pfp"], rho["length_difference"])]
    conclusion = f"PFP predicts the norm {compared} the length difference"
    text = caption(
        f"Norm of the DPO gradient of {len(data)} random pairs of {data['prompt_id'].nunique()} prompts, under the "
        f"policy of {experiment.label(source['method'])}, seed {source['seed']}, before round {source['round']}.",
        "ρ is Spearman's; brackets are 95 % bootstrap CIs over prompts with all their pairs.",
        f"{conclusion}; ρ of PFP and length is {with_length}, and of PFP and norm given length {given_length}.",
    )
    save_figure(picture, figure, data, text)
    return Summary(f"{len(data)} pairs -> {figure}", result=conclusion)


run(main)
