"""The cost of a seed of each method, from the cost files of its stages."""

import pandas as pd

from prefloop.config.experiment import Comparison, Experiment
from prefloop.evaluation.result_files import result_object
from prefloop.evaluation.results import alignment_costs

COST_AMOUNTS = ["gpu_seconds", "cpu_seconds", "tokens"]


def seed_costs(experiment: Experiment) -> pd.DataFrame:
    """The mean cost of a seed, by method: columns training_<amount> and evaluation_<amount>.

    The amounts are wall seconds of stages on a GPU, wall seconds of all other stages, and tokens (read and generated).
    Evaluation includes sampling in every round and the comparisons by every evaluator.
    """
    return run_costs(experiment).groupby(level="method").mean()


def run_costs(experiment: Experiment) -> pd.DataFrame:
    """The columns of `seed_costs`, by method and seed."""
    evaluated = [comparison for comparison in experiment.by_round() if comparison.round]
    evaluation = pd.DataFrame(
        {"method": comparison.method, "seed": comparison.seed} | result_object(experiment.root / path)
        for comparison in evaluated
        for path in evaluation_costs(experiment, comparison)
    )
    parts = {"training": alignment_costs(experiment), "evaluation": evaluation}
    return pd.concat([_sums_by_run(rows).add_prefix(f"{part}_") for part, rows in parts.items()], axis=1)


def evaluation_costs(experiment: Experiment, comparison: Comparison) -> list[str]:
    """The cost files of sampling and comparisons, relative to the experiment's folder."""
    judged = [comparison.judgments, *map(comparison.judged_by, experiment.evaluators)]
    return [f"{comparison.folder}/sample.cost.json", *(path.replace(".jsonl", ".cost.json") for path in judged)]


def _sums_by_run(rows: pd.DataFrame) -> pd.DataFrame:
    """Sums by method and seed of cost files with method, seed, device, seconds, tokens_in and tokens_out."""
    on_gpu = rows["device"].str.startswith("cuda")
    amounts = pd.DataFrame(
        {
            "gpu_seconds": rows["seconds"].where(on_gpu, 0.0),
            "cpu_seconds": rows["seconds"].mask(on_gpu, 0.0),
            "tokens": rows["tokens_in"] + rows["tokens_out"],
        }
    )
    return amounts.groupby([rows["method"], rows["seed"]]).sum()
