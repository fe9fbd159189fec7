"""Draw win rates during training."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary
from prefloop.evaluation.results import comparisons
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.checkpoint_curves import checkpoint_rates, draw_checkpoints, end_clause, round_lengths
from prefloop.report.labels import for_figure, relabeled
from prefloop.report.plotting import note_evaluator, save_figure
from prefloop.report.significance import significance_sentence
from prefloop.report.win_rates import MAX_BANDS, opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw the win rate of every checkpoint and end of a round, one panel per temperature; bands are 95 % CIs.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    if not experiment.by_checkpoint.methods:
        raise InputError("figures: checkpoints is not listed, so no checkpoint is evaluated; add it in the config")
    rows, lengths = comparisons(experiment, experiment.over_training()), round_lengths(experiment)
    data = checkpoint_rates(rows, lengths)
    picture = draw_checkpoints(*for_figure(experiment, data))
    note_evaluator(picture, experiment)
    unequal = (lengths.groupby(level=["method", "round"]).nunique() > 1).any()
    temperatures = data["temperature"].unique()
    labeled = relabeled(experiment, rows)
    text = caption(
        f"Win rate against {opponent_label(experiment.opponents[0])} over training, from the initial policy at step 0 "
        "through checkpoints (open markers) to ends of rounds (filled)"
        + ("; steps are means over seeds." if unequal else "."),
        "" if len(experiment.by_checkpoint.methods) > MAX_BANDS else interval_sentence(experiment, "bands"),
        significance_sentence(
            [end_clause(labeled, experiment, temperature) for temperature in temperatures], len(experiment.seeds)
        ),
    )
    save_figure(picture, figure, data, text)
    return Summary(f"{len(data)} policies at {len(temperatures)} temperatures -> {figure}")


run(main)
