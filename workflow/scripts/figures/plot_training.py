"""Draw the training curves of every method."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.figure_rows import TRAINING_CURVES
from prefloop.evaluation.results import training
from prefloop.report.captions import caption
from prefloop.report.curves import curve_marks, draw_by_step
from prefloop.report.labels import for_figure
from prefloop.report.plotting import legend_above, save_figure

LABELS = ("loss (nats)", "implicit reward margin\n(β · nats)", "accuracy", "gradient 2-norm")  # of TRAINING_CURVES


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw curves by optimizer step, as means over seeds with their range; grey lines mark the starts of rounds.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    table = training(experiment)
    table = table[["method", "seed", "round", "step", *TRAINING_CURVES]]
    shown, steps = for_figure(experiment, table)
    picture, panels = plt.subplots(2, 2, figsize=(7, 4.6), sharex=True, layout="constrained")
    for axes, curve, label in zip(panels.flat, TRAINING_CURVES, LABELS, strict=True):
        draw_by_step(axes, steps, curve, shown.methods)
        axes.set_ylabel(label)
        if curve == "loss":
            axes.axhline(np.log(2), color="0.4", linewidth=0.8, linestyle=":")
    for axes in panels[1]:
        axes.set_xlabel("optimizer step")
    legend_above(picture, panels[0][0])
    text = caption(
        "Loss, implicit reward margin, accuracy and gradient norm by optimizer step.",
        f"{curve_marks(experiment, table)}; the dotted line is log 2, the DPO loss of a policy equal to its reference.",
        "Methods with different losses or β have losses on different scales.",
    )
    save_figure(picture, figure, table, text)
    return Summary(f"{len(table)} steps -> {figure}")


run(main)
