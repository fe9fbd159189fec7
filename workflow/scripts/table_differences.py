"""Write how far every method is from one of them, prompt by prompt and seed by seed."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.comparisons import arrays, last_round
from prefloop.experiment import Experiment
from prefloop.intervals import paired_difference
from prefloop.progress import Summary
from prefloop.results import verdicts
from prefloop.rows import InputError
from prefloop.tables import MEASURES, save


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write the last round of every method minus the baseline's; brackets are 95 % bootstrap intervals.

    Differences are paired: the same prompts and seeds are drawn on both sides. One is told apart if its interval leaves
    out 0; every interval stands for itself, not corrected for their number, and so nothing is bold.

    Args:
        experiment: Which runs.
        table: Where the CSV goes; .tex and the caption .rst stand beside it.
    """
    baseline = experiment.baseline
    others = [method for method in experiment.methods if method != baseline]
    if baseline not in experiment.methods or not others:
        raise InputError(
            f"baseline: {baseline!r}, expected one of two or more methods: {', '.join(experiment.methods)}"
        )
    rows = verdicts(experiment)
    parts, results, shown = last_round(rows, experiment), [], pd.DataFrame({f"minus {baseline}": others})
    for measure, label in MEASURES.items():
        if not rows[measure].notna().any():  # a judge gives no reward
            continue
        values, cells = arrays(parts, measure), []
        for method in others:
            difference, low, high = paired_difference(values[method], values[baseline])
            row = {"method": method, "baseline": baseline, "measure": measure, "difference": difference}
            results.append(row | {"low": low, "high": high, "told_apart": low > 0 or high < 0})
            cells.append(f"{difference:+.3g} [{low:.3g}, {high:.3g}]")
        shown[label] = cells
    told = caption(
        experiment,
        f"Each method minus {baseline} after the last round, paired by prompt and seed; the win rate is against the "
        f"opponent {experiment.opponents[0]} (a tie counts ½, an invalid verdict not at all), tokens are those of a "
        "response. An interval without 0 tells a method apart; every interval stands for itself, not corrected for the "
        "number of comparisons.",
        prompts=rows["prompt_id"].nunique(),
        shown="brackets",
    )
    save(table, pd.DataFrame(results), shown, told)
    return Summary(f"{len(results)} rows -> {table}")


run(main)
