"""Draw β during training, and the quantities that its rule depends on."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import training
from prefloop.report.beta_curves import draw_betas, logged_betas, warmup_ends
from prefloop.report.captions import caption
from prefloop.report.curves import curve_marks
from prefloop.report.labels import for_figure
from prefloop.report.plotting import save_figure

NAMES = {
    "beta": "β",
    "threshold": "threshold τ (risk rules) or running mean margin M0 (β-DPO) of margins without β",
    "beta/p_hat": "share p̂ of the step's margins above τ",
    "beta/kept": "share of the batch's pairs that counted in the loss",
}


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path, delta: tuple[float, ...] = ()) -> Summary:
    """Draw β, threshold, p̂ and kept share by optimizer step, as means over seeds with their range.

    A panel shows only methods whose β rule has its quantity; a panel without methods is left out.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
        delta: Target shares of margins above τ in the methods' rules, drawn as lines.
    """
    data = logged_betas(training(experiment))
    labeled, steps = for_figure(experiment, data)
    picture, shown = draw_betas(steps, labeled.methods, delta)
    marks = curve_marks(experiment, data) + "; dotted lines end warm-ups" * bool(warmup_ends(data))
    if delta and "beta/p_hat" in shown:
        marks += f"; the target share is δ = {', '.join(f'{share:g}' for share in delta)}"
    names = "; ".join(NAMES[name] for name in shown)
    text = caption(f"By optimizer step over all rounds, from top to bottom: {names}.", f"{marks}.")
    save_figure(picture, figure, data, text)
    return Summary(f"{len(data)} steps, {len(shown)} panels -> {figure}")


run(main)
