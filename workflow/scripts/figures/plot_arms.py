"""Draw each step's share of prompts by cluster, and the arms' scores."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import arms
from prefloop.report.arm_heatmaps import arm_shares, draw_heatmaps
from prefloop.report.captions import caption
from prefloop.report.labels import for_figure
from prefloop.report.plotting import save_figure


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw the arms by step, averaged over seeds: share of the step's prompts above, score below.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    data = arm_shares(arms(experiment))
    shown, shares = for_figure(experiment, data)
    text = caption(
        "Share of each step's prompts by cluster (above) and the arms' UCB scores after the step (below), as means "
        "over seeds.",
        conclusion="The scores one column to the left determine the shares of a step; methods that draw at random "
        "do not use scores.",
    )
    save_figure(draw_heatmaps(shown.methods, shares), figure, data, text)
    return Summary(f"{data['cluster'].nunique()} clusters -> {figure}")


run(main)
