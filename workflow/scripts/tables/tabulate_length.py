"""Write the effect of length: tokens, truncation, raw and length-controlled win rate, wins of the longer answer."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import judgments
from prefloop.evaluation.summaries import length_effects
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.labels import relabeled
from prefloop.report.significance import bold_sentence
from prefloop.report.tables import save_table, with_interval
from prefloop.report.truncation_facts import truncation_facts

LABELS = {
    "n_tokens": "tokens",
    "win": "win rate",
    "length_controlled_win": "length-controlled",
    "longer_won": "longer won",
}


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write the last round of every method; brackets are 95 % CIs.

    A win rate is bold if it is significantly better than that of every other row (`inference.best`).

    Args:
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    data, best_row = length_effects(judgments(experiment), experiment)
    shown = relabeled(experiment, data[["method", "seeds"]].copy())
    for measure, label in LABELS.items():
        shown[label] = with_interval(data, measure, best_row if measure == "win" else ())
    shown.insert(3, "opponent's tokens", data["n_tokens_opponent"].map("{:.3g}".format))
    shown.insert(4, "truncated", data["truncated"].map("{:.2f}".format))
    text = caption(
        "Mean tokens after the last round, share of responses truncated at max_new_tokens, win rate, win rate at equal "
        "lengths by a logistic regression (arXiv 2404.04475), and share of decided comparisons that the longer answer "
        "won.",
        interval_sentence(experiment, "brackets", "length-controlled win rates"),
        bold_sentence(len(experiment.seeds)),
        *truncation_facts(experiment),
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
