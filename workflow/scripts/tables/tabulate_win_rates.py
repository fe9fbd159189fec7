"""Write wins, ties, losses and invalid judgments of every policy against every opponent at every temperature."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import comparisons
from prefloop.evaluation.summaries import OUTCOME_NAMES, outcomes_by_evaluator
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.feedback_labels import evaluators_sentence
from prefloop.report.labels import relabeled
from prefloop.report.significance import bold_sentence
from prefloop.report.tables import save_table, with_interval


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write one row per opponent, temperature and policy; outcomes are counted over prompts and seeds.

    With named evaluators there is one row for each. A tie is half a win, and an invalid judgment does not count.
    Brackets are 95 % CIs (`inference.rate_interval`).

    Args:
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    data = outcomes_by_evaluator(comparisons(experiment, experiment.comparisons), experiment)
    keys = ["opponent", "temperature", "method", "round", "checkpoint", "seeds"]
    shown = data[[*["evaluator"] * bool(experiment.evaluators), *keys, *OUTCOME_NAMES]].copy()
    shown = relabeled(experiment, shown)
    shown["checkpoint"] = shown["checkpoint"].map(lambda step: "--" if step < 0 else str(step))
    shown["win rate"] = with_interval(data, "win_rate", data.index[data["best"]])
    text = caption(
        "Outcomes of each policy against each opponent by sampling temperature, round and checkpoint (-- is the end of "
        "a round), and win rates, where a tie counts ½ and an invalid judgment does not count.",
        interval_sentence(experiment, "brackets"),
        bold_sentence(len(experiment.seeds), "others of its round and checkpoint"),
        evaluators_sentence(experiment),
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
