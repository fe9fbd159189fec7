"""Write what every method spends until its mean reward reaches a target."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.comparisons import arrays
from prefloop.experiment import Experiment
from prefloop.intervals import cost_to_reach, halfway, resampled_curves
from prefloop.progress import Summary
from prefloop.results import annotated_by_seed, spent_by_seed, verdicts
from prefloop.rows import InputError
from prefloop.tables import MEASURES, save


def main(
    *,
    experiment: Annotated[Experiment, arg(name="")],
    measure: Literal["feedback", "reward", "win"] = "reward",
    target: float | None = None,
    table: Path,
) -> Summary:
    """Write the cost at which each method's mean first reaches the target; between rounds cost and mean rise in a line.

    Brackets are 95 % bootstrap intervals over prompts, and over seeds if there are several; inf is not reached.
    `reached` is the share of the resamples that reach the target at all. A target found from the data is found again
    in every resample, from the same prompts and seeds for all methods. Nothing is bold: nothing is compared.

    Args:
        experiment: Which runs.
        measure: Mean of what: reward by the config's feedback, reward by the evaluator, or win rate.
        target: The mean to reach; if left out, halfway from the initial policy's to the best last one.
        table: Where the CSV goes; .tex and the caption .rst stand beside it.
    """
    rows = verdicts(experiment)
    if not rows[measure].notna().any():
        raise InputError(f"measure: no verdict has a {measure} (a judge gives no reward); expected another measure")
    # The same draws for every method and amount: a difference between rows is none between draws.
    curves, of_seeds = resampled_curves(rewards_by_round(rows, experiment, measure))
    targets = halfway(curves) if target is None else np.array([target])
    if np.isnan(targets[0]):
        print(f"table_cost_to_reach: no method's mean {measure} ends above the initial policy's, so there is no target")
    spent = spent_by_seed(experiment).merge(annotated_by_seed(experiment), on=["method", "seed", "round"])
    results = []
    for method, curve in curves.items():
        for amount in LABELS:
            part = spent[spent["method"] == method].pivot(index="seed", columns="round", values=amount)
            found = cost_to_reach(part.to_numpy(), curve, of_seeds, targets)
            row = {"method": method, "measure": measure, "target": targets[0], "cost": amount, "value": found.cost}
            results.append(row | {"low": found.low, "high": found.high, "reached": found.reached})
    data = pd.DataFrame(results)
    shown = pd.DataFrame({f"{MEASURES[measure]} of {targets[0]:.3g}": experiment.methods})
    for amount, label in LABELS.items():
        part = data[data["cost"] == amount]
        cells = zip(part["value"], part["low"], part["high"], strict=True)
        shown[label] = [SHOWN[amount](*cell) for cell in cells]
    shown["reached"] = part["reached"].map("{:.2f}".format).to_numpy()
    told = caption(
        experiment,
        f"What it costs until the mean {MEASURES[measure]} first reaches {said(targets[0], target is None)}, on the "
        "piecewise linear curve of the mean through the rounds: floating-point operations, generated tokens and "
        'annotated responses, and the share of resamples that reached it at all. "inf" is not reached.',
        prompts=rows["prompt_id"].nunique(),
        shown="brackets",
    )
    save(table, data, shown, told)
    return Summary(f"{len(data)} rows -> {table}")


LABELS = {"flops": "PFLOP", "generated_tokens": "generated tokens", "annotated_responses": "annotated responses"}
SHOWN = {
    "flops": lambda *cost: "{:.3g} [{:.3g}, {:.3g}]".format(*(value / 1e15 for value in cost)),
    "generated_tokens": "{:,.0f} [{:,.0f}, {:,.0f}]".format,
    "annotated_responses": "{:,.0f} [{:,.0f}, {:,.0f}]".format,
}


def said(target: float, found: bool) -> str:
    """The target as a caption says it; `found` from the data or given."""
    if not found:
        return f"{target:.3g} (a given number, the same in all resamples)"
    if np.isnan(target):
        return "its target (there is none: no method ends above the initial policy)"
    return (
        f"{target:.3g}, halfway from the initial policy's to the best method's last one (found again in every "
        "resample, from the same prompts and seeds for all methods)"
    )


def rewards_by_round(rows: pd.DataFrame, experiment: Experiment, measure: str) -> dict[str, np.ndarray]:
    """[seeds, rounds + 1, prompts] of every method, the initial policy first."""
    by_round = arrays(dict(list(rows.groupby(["method", "round"]))), measure)
    rounds = range(experiment.rounds + 1)
    return {m: np.stack([by_round[m, number] for number in rounds], axis=1) for m in experiment.methods}


run(main)
