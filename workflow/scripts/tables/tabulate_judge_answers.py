"""Write the raw answers of judges, for inspection."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import JUDGED, judge_answers
from prefloop.report.labels import relabeled
from prefloop.report.tables import save_table

CAPTION = (
    "Raw answers of judges. The CSV has all answers; shown here is the first one per stage and problem, where an empty "
    "problem means a valid answer."
)
SHOWN = 60  # characters of an answer


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write one row per answer.

    Args:
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    data = judge_answers(experiment)
    shown = data.drop_duplicates([*JUDGED, "problem"])[[*JUDGED, "problem", "answer"]]
    shown = shown.assign(answer=shown["answer"].map(lambda text: " ".join(text.split())[:SHOWN]))
    save_table(table, data, relabeled(experiment, shown), CAPTION)
    return Summary(f"{len(data)} answers -> {table}")


run(main)
