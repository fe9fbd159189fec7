"""Check that methods have the same cost, before a caption says so."""

from prefloop.config.experiment import Experiment
from prefloop.evaluation.results import spent
from prefloop.evaluation.row_counts import row_counts

TOLERANCE = 0.05  # fraction by which the smallest amount may be below the largest
AMOUNT_OF = {"labels": "labels", "tokens": "generated_tokens", "flops": "flops"}  # column of `spent` by setting
UNIT_OF = {"labels": "labels", "tokens": "generated tokens", "flops": "FLOPs", "pairs": "trained pairs"}


def equal_cost_facts(experiment: Experiment) -> list[str]:
    """A sentence on whether methods are equal in the cost that the config holds equal; empty if it names no cost."""
    kind = experiment.equal_cost
    if kind is None:
        return []
    amounts = pairs_per_run(experiment) if kind == "pairs" else spent_per_run(experiment, AMOUNT_OF[kind])
    low, high = min(amounts.values()), max(amounts.values())
    if low >= (1 - TOLERANCE) * high:
        return [f"At equal cost: every method used {range_of(low, high)} {UNIT_OF[kind]} per run."]
    listed = listed_amounts({experiment.label(method): amount for method, amount in amounts.items()})
    return [f"Not at equal cost: {UNIT_OF[kind]} per run differ by more than {100 * TOLERANCE:g} %: {listed}."]


def listed_amounts(amounts: dict[str, float]) -> str:
    """`a 1,024, all others 256`, where more than two methods are equal within `TOLERANCE`; else every amount."""
    groups = [
        [name for name, amount in amounts.items() if (1 - TOLERANCE) * top <= amount <= top] for top in amounts.values()
    ]
    largest = max(groups, key=len)
    equal = largest if 2 < len(largest) < len(amounts) else []
    parts = [f"{name} {amount:,.4g}" for name, amount in amounts.items() if name not in equal]
    if equal:
        of_others = [amounts[name] for name in equal]
        parts.append(f"all others {range_of(min(of_others), max(of_others))}")
    return ", ".join(parts)


def range_of(low: float, high: float) -> str:
    """`256`, or `250 to 256`."""
    return f"{low:,.4g}" if low == high else f"{low:,.4g} to {high:,.4g}"


def spent_per_run(experiment: Experiment, column: str) -> dict[str, float]:
    """What a run of each method has spent after the last round, averaged over seeds."""
    table = spent(experiment)
    ends = table[table["round"] == experiment.rounds].set_index("method")[column].to_dict()
    return {method: float(ends[method]) for method in experiment.methods}


def pairs_per_run(experiment: Experiment) -> dict[str, float]:
    """The number of pairs on which a run of each method trains, including mixed ones, averaged over seeds."""
    counts = dict.fromkeys(experiment.methods, 0.0)
    table = row_counts(experiment, "pairs")
    for method, pairs in zip(table["method"], table["pairs"], strict=True):
        counts[method] += pairs / len(experiment.seeds)
    return counts
