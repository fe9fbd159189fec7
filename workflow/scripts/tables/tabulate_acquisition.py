"""Write a table of how well responses to label were chosen, by step."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.head_quality import head_quality
from prefloop.report.captions import caption
from prefloop.report.labels import relabeled
from prefloop.report.tables import save_table


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write one row per step of the methods that choose which responses get a label.

    Args:
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    data = head_quality(experiment)
    shown = data.groupby(["method", "round", "step"], sort=False).mean(numeric_only=True).drop(columns="seed")
    shown = relabeled(experiment, shown.reset_index())
    for name, form in {"prompts": "{:.0f}", "responses": "{:.0f}", "correlation": "{:.2f}", "gap": "{:.3g}"}.items():
        shown[name] = [form.format(value) if value == value else "--" for value in shown[name]]
    text = caption(
        "Labeled responses by step, averaged over seeds; correlation is between predictions and later labels within "
        "prompts, and gap is the mean difference between the best and the worst label of a prompt.",
        "A step without a head, such as the first, chooses at random and has no correlation.",
        "A correlation near 0 means that no rule can choose better than at random.",
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
