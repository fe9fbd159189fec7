"""Draw the training curves of every method."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.experiment import Experiment
from prefloop.figures import legend_above, save
from prefloop.figures.curves import draw_by_step, lines_in_words
from prefloop.progress import Summary
from prefloop.results import training

CURVES = {
    "loss": "loss (nats)",
    "rewards/margins": "implicit reward margin\n(β · nats)",
    "rewards/accuracies": "share of pairs\nranked rightly",
    "grad_norm": "gradient 2-norm",
}


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw curves by optimizer step, means over seeds with their range; a grey line starts each round.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
    """
    table = training(experiment)
    table = table[["method", "seed", "round", "step", *CURVES]]
    picture, panels = plt.subplots(2, 2, figsize=(7, 4.6), sharex=True, layout="constrained")
    for axes, (curve, label) in zip(panels.flat, CURVES.items(), strict=True):
        draw_by_step(axes, table, curve, experiment.methods)
        axes.set_ylabel(label)
        if curve == "loss":
            axes.axhline(np.log(2), color="0.4", linewidth=0.8, linestyle=":")
    for axes in panels[1]:
        axes.set_xlabel("optimizer step")
    legend_above(picture, panels[0][0])
    told = caption(
        experiment,
        "Loss, implicit reward margin, share of pairs ranked rightly and gradient norm by optimizer step.",
        *lines_in_words(experiment, table),
        "The dotted line is log 2, the DPO loss of a policy that equals its reference. Methods whose losses or β "
        "differ have losses on other scales.",
    )
    save(picture, figure, table, told)
    return Summary(f"{len(table)} steps -> {figure}")


run(main)
