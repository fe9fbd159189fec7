"""Write what every stage cost by method, as CSV and LaTeX."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.experiment import Experiment
from prefloop.progress import Summary
from prefloop.results import costs
from prefloop.tables import save

ALIGNMENT = ["cluster", "sft", "reward_model", "generate", "reward", "perplexity", "train"]
STAGES = [*ALIGNMENT, "sample", "judge", "divergence", "gradients"]


def main(
    *,
    experiment: Annotated[Experiment, arg(name="")],
    shared: tuple[Path, ...] = (),
    divergence: bool = False,
    table: Path,
) -> Summary:
    """Write the ledger: sums over rounds and steps, means over seeds.

    Args:
        experiment: Which runs.
        shared: Costs of stages that no method has to itself.
        divergence: Whether divergences were measured.
        table: Where the CSV goes; .tex and the caption .rst stand beside it.
    """
    rows = costs(experiment, shared, divergence)
    amounts = ["tokens_in", "tokens_out", "flops", "seconds"]
    data = (
        rows.groupby(["method", "seed", "stage"])[amounts].sum().groupby(level=["method", "stage"]).mean().reset_index()
    )
    order = {name: place for place, name in enumerate(["shared", *experiment.methods, *STAGES])}
    data = data.sort_values(["method", "stage"], key=lambda column: column.map(order))
    shown = pd.DataFrame(
        {
            "method": data["method"],
            "stage": data["stage"],
            "tokens read": data["tokens_in"].map("{:,.0f}".format),
            "tokens generated": data["tokens_out"].map("{:,.0f}".format),
            "TFLOP": (data["flops"] / 1e12).map("{:,.1f}".format),
            "seconds": data["seconds"].map("{:,.1f}".format),
        }
    )
    told = caption(
        experiment,
        "Tokens, floating-point operations (2P a token forward, 6P a token trained, P the number of parameters) and "
        "wall seconds by method and stage: sums over rounds and steps, means over seeds. What no method has to "
        'itself stands under "shared".',
    )
    save(table, data, shown, told)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
