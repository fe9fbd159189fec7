"""The cost until a method's mean reaches a target."""

from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.evaluation.comparisons import arrays
from prefloop.evaluation.inference import cost_to_reach, families_of, halfway, resampled_curves
from prefloop.evaluation.results import annotated_by_seed, spent_by_seed

COST_COLUMNS = ("flops", "generated_tokens", "annotated_responses", "labels")


def target_costs(
    rows: pd.DataFrame, experiment: Experiment, measure: str, target: float | None
) -> tuple[pd.DataFrame, float]:
    """The cost at which each method's mean first reaches the target.

    Args:
        rows: The result of `results.judgments`.
        experiment: The runs.
        measure: A column of `rows`.
        target: The mean to reach. If None, it is halfway between the means of the initial policy and of the best
            method after the last round, for each resample.

    Returns:
        One row per method and kind of cost, and the target, which is NaN if no method ends above the initial policy.
    """
    by_round = arrays(dict(list(rows.groupby(["method", "round"]))), measure)
    families = families_of(next(iter(by_round.values())))
    # All methods and costs use the same draws, so that rows can be compared.
    curves, of_seeds = resampled_curves(means_by_round(by_round, experiment), families=families)
    targets = halfway(curves) if target is None else np.array([target])
    spent = spent_by_seed(experiment).merge(annotated_by_seed(experiment), on=["method", "seed", "round"])
    table = []
    for method, curve in curves.items():
        for column in COST_COLUMNS:
            part = spent[spent["method"] == method].pivot(index="seed", columns="round", values=column)
            reached = cost_to_reach(part.to_numpy(), curve, of_seeds, targets)
            row = {"method": method, "measure": measure, "target": targets[0], "cost": column, "value": reached.cost}
            table.append(row | {"low": reached.low, "high": reached.high, "reached": reached.reached})
    return pd.DataFrame(table), float(targets[0])


def means_by_round(
    by_round: Mapping[tuple[Hashable, ...], pd.DataFrame], experiment: Experiment
) -> dict[str, np.ndarray]:
    """The values of every method, [seeds, rounds + 1, prompts], starting with the initial policy.

    Args:
        by_round: The result of `arrays`, by method and round.
        experiment: The runs.
    """
    rounds = range(experiment.rounds + 1)
    return {m: np.stack([by_round[m, round_index] for round_index in rounds], axis=1) for m in experiment.methods}
