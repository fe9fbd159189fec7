"""Write the cost of every stage by method, as CSV and LaTeX."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import costs, stage_of
from prefloop.report.captions import caption
from prefloop.report.tables import save_table

ALIGNMENT = [
    "cluster_prompts",
    "fine_tune",
    "train_reward_model",
    "generate",
    "reward",
    "logprobs",
    "mix_pairs",
    "train",
]
EVALUATION = ["sample", "compare_samples"]
MEASUREMENTS = ["measure_kl", "measure_perplexity", "measure_gradients"]


def main(
    *,
    experiment: Annotated[Experiment, arg(name="")],
    shared: tuple[Path, ...] = (),
    divergence: bool = False,
    perplexity: bool = False,
    table: Path,
) -> Summary:
    """Write the costs: sums over rounds and steps, means over seeds.

    Args:
        shared: Costs of stages that methods share.
        divergence: Whether divergences were measured.
        perplexity: Whether the perplexity of plain text was measured.
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    rows = costs(experiment, shared, divergence, perplexity)
    amounts = ["tokens_in", "tokens_out", "labels", "flops", "seconds"]
    data = (
        rows.groupby(["method", "seed", "stage"])[amounts].sum().groupby(level=["method", "stage"]).mean().reset_index()
    )
    stages = [*ALIGNMENT, *EVALUATION, *map(stage_of, experiment.evaluators), *MEASUREMENTS]
    order = {name: index for index, name in enumerate(["shared", *experiment.methods, *stages])}
    data = data.sort_values(["method", "stage"], key=lambda column: column.map(order))
    shown = pd.DataFrame(
        {
            "method": data["method"].map(experiment.label),
            "stage": data["stage"],
            "tokens read": data["tokens_in"].map("{:,.0f}".format),
            "tokens generated": data["tokens_out"].map("{:,.0f}".format),
            "labels": data["labels"].map("{:,.0f}".format),
            "TFLOPs": (data["flops"] / 1e12).map("{:,.1f}".format),
            "seconds": data["seconds"].map("{:,.1f}".format),
        }
    )
    text = caption(
        "Tokens, labels (scored responses or questions to a judge), FLOPs (for P parameters, 2P per token forward and "
        "6P per token trained) and wall seconds by method and stage.",
        "Values are sums over rounds and steps, averaged over seeds.",
        "Stages that do not belong to one method are in rows named shared.",
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
