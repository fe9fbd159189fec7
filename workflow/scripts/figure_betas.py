"""Draw how β moved during training, and what moved it."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.experiment import Experiment
from prefloop.figures import legend_above, save
from prefloop.figures.curves import draw_by_step, lines_in_words, plain_log
from prefloop.progress import Summary
from prefloop.results import training

LOGGED = ["beta", "beta/tau", "beta/m0", "beta/p_hat", "beta/kept"]  # by prefloop.betas, as far as a rule has it
PANELS = {
    "beta": "β (per nat)",
    "threshold": "τ or M0\n(nats)",
    "beta/p_hat": "p̂, share of\nmargins above τ",
    "beta/kept": "share of\npairs kept",
}
WORDS = {
    "beta": "β that the step's loss used",
    "threshold": "threshold τ (risk rules) or running mean margin M0 (β-DPO), both of log-ratio margins without β",
    "beta/p_hat": "share p̂ of the step's margins above τ",
    "beta/kept": "share of the batch's pairs that counted in the loss",
}


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path, delta: tuple[float, ...] = ()) -> Summary:
    """Draw β, threshold, p̂ and kept share by optimizer step, means over seeds with their range.

    A panel that no method's β rule has is left out; so is a method in the panels that its rule has not.

    Args:
        experiment: Which runs.
        figure: Where the figure goes; .svg, .png, .csv and the caption .rst stand beside it.
        delta: Shares of margins above τ that the methods' rules aim at, drawn as lines.
    """
    table = training(experiment)
    table = table[["method", "seed", "round", "step", *(name for name in LOGGED if name in table)]]
    drawn = table.assign(threshold=first_of(table, ["beta/tau", "beta/m0"]))
    shown = [name for name in PANELS if name in drawn and drawn[name].notna().any()]
    warm = warmup_ends(table) if "beta/tau" in table else []
    size = (6, 0.9 + 1.4 * len(shown))
    picture, panels = plt.subplots(len(shown), figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axes, name in zip(panels[:, 0], shown, strict=True):
        draw_by_step(axes, drawn, name, experiment.methods)
        for step in warm:
            axes.axvline(step - 0.5, color="black", linewidth=0.9, linestyle=":")
        axes.set_ylabel(PANELS[name])
        if name == "beta":
            plain_log(axes.yaxis)
        if name == "beta/kept":
            axes.set_ylim(0, 1.05)
        for share in delta if name == "beta/p_hat" else ():
            axes.axhline(share, color="0.3", linewidth=0.9)
            axes.annotate(f"δ = {share:g}", (1.01, share), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    panels[-1, 0].set_xlabel("optimizer step")
    legend_above(picture, panels[0, 0])
    sentences = told(shown, lines_in_words(experiment, table), warm, delta)
    save(picture, figure, table, caption(experiment, *sentences))
    return Summary(f"{len(table)} steps, {len(shown)} panels -> {figure}")


def first_of(table: pd.DataFrame, names: list[str]) -> pd.Series:
    """The first of these columns that has a value, row by row; NaN where none has."""
    columns = table.reindex(columns=names).astype(float)
    return columns.bfill(axis=1).iloc[:, 0]


def warmup_ends(table: pd.DataFrame) -> list[int]:
    """Steps from which a run has a threshold τ that it had not before."""
    has = table["beta/tau"].notna()
    before = has.groupby([table["method"], table["seed"]]).shift(fill_value=False)
    return sorted(set(table["step"][has & ~before]))


def told(shown: list[str], lines: list[str], warm: list[int], delta: tuple[float, ...]) -> list[str]:
    """What this figure's caption says before what every caption says; `lines` says what its lines are."""
    sentences = [
        f"How β moved, by optimizer step of all rounds. From above: {'; '.join(WORDS[name] for name in shown)}.",
        *lines,
    ]
    if warm:
        sentences.append("Dotted lines end warm-ups, which have no τ: until there β stays.")
    if delta and "beta/p_hat" in shown:
        sentences.append(f"The share wanted above τ is δ = {', '.join(f'{share:g}' for share in delta)}.")
    return sentences


run(main)
