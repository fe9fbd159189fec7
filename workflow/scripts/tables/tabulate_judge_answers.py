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
    "Answers of judges, in the order in which they showed the responses. The CSV has all answers; shown here are the "
    "first of each stage and problem, where no problem is a valid answer."
)
SHOWN = 60  # characters of an answer


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write one row per answer.

    Args:
        table: Where the CSV goes, next to its .tex and caption .rst.
    """
    data = judge_answers(experiment)
    shown = data.drop_duplicates([*JUDGED, "problem"])[[*JUDGED, "problem", "answer"]]
    shown = shown.assign(answer=shown["answer"].map(lambda text: " ".join(text.split())[:SHOWN]))
    save_table(table, data, relabeled(experiment, shown), CAPTION)
    return Summary(f"{len(data)} answers -> {table}")


run(main)
