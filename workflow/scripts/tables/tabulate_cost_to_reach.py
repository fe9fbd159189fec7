"""Write the cost at which every method's mean reaches a target."""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.evaluator_measures import OF_MAIN
from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary
from prefloop.evaluation.results import judgments, named_measures
from prefloop.evaluation.target_costs import target_costs
from prefloop.report.captions import bootstrap_sentence, caption
from prefloop.report.feedback_labels import evaluators_sentence
from prefloop.report.tables import save_table, table_label

COLUMNS = {  # label, unit and format
    "flops": ("PFLOPs", 1e15, "{:.3g}"),
    "generated_tokens": ("generated tokens", 1, "{:,.0f}"),
    "annotated_responses": ("annotated responses", 1, "{:,.0f}"),
    "labels": ("labels", 1, "{:,.0f}"),
}


def main(
    *,
    experiment: Annotated[Experiment, arg(name="")],
    measure: str = "reward",
    target: float | None = None,
    table: Path,
) -> Summary:
    """Write the cost at which each method's mean first reaches the target, interpolated linearly between rounds.

    Brackets are 95 % bootstrap CIs. "--", or an empty cell of the CSV, means that the target is not reached. `reached`
    is the share of resamples that reach the target.

    Args:
        measure: The averaged measure: feedback (reward by the config's feedback), reward (by the evaluator), win (win
            rate), or one of the last two by a named evaluator, such as polite_reward.
        target: The mean to reach; by default halfway from the initial policy's mean to the best final one.
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    rows = judgments(experiment)
    if measure not in (known := [*OF_MAIN, *named_measures(rows, experiment)]):
        raise InputError(f"measure: {measure!r}, expected one of {', '.join(known)}")
    if not rows[measure].notna().any():
        raise InputError(f"measure: no judgment has a {measure} (a judge gives no reward); choose another measure")
    data, level = target_costs(rows, experiment, measure, target)
    if np.isnan(level):
        print(f"tabulate_cost_to_reach: no method's mean {measure} ends above the initial policy's, so no target")
    goal = f"{level:.3g}" if np.isfinite(level) else "the target"
    shown = pd.DataFrame({f"{table_label(measure)} of {goal}": map(experiment.label, experiment.methods)})
    for column, (label, unit, form) in COLUMNS.items():
        part = data[data["cost"] == column]
        value, low, high = (cells(part[name] / unit, form) for name in ("value", "low", "high"))
        shown[label] = [f"{a} [{b}, {c}]" for a, b, c in zip(value, low, high, strict=True)]
    shown["reached"] = part["reached"].map("{:.2f}".format).to_numpy()
    source = "a given target" if target is not None else "halfway from the initial policy's to the best final one"
    if np.isnan(level):
        source = "there is no target, because no method ends above the initial policy"
    text = caption(
        f"Cost until the mean {table_label(measure)} first reaches {goal} ({source}), interpolated linearly "
        "between rounds, and the share of resamples that reach it; -- is not reached.",
        bootstrap_sentence(experiment, "brackets"),
        evaluators_sentence(experiment),
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


def cells(costs: pd.Series, form: str) -> list[str]:
    """Finite costs in a format, and -- for infinite ones."""
    return [form.format(cost) if np.isfinite(cost) else "--" for cost in costs]


run(main)
