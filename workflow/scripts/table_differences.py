"""Write how far every method is from one of them, prompt by prompt and seed by seed."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.captions import caption
from prefloop.comparisons import differences, others_of
from prefloop.experiment import Experiment
from prefloop.progress import Summary
from prefloop.results import verdicts
from prefloop.tables import MEASURES, save


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write the last round of every method minus the baseline's; brackets are 95 % bootstrap intervals.

    Differences are paired: the same prompts and seeds are drawn on both sides. One is told apart if its interval leaves
    out 0; every interval stands for itself, not corrected for their number, and so nothing is bold.

    Args:
        experiment: Which runs.
        table: Where the CSV goes; .tex and the caption .rst stand beside it.
    """
    baseline, rows = experiment.baseline, verdicts(experiment)
    measured = [measure for measure in MEASURES if rows[measure].notna().any()]  # a judge gives no reward
    results = differences(rows, experiment, measured)
    results = results[results["seed"].isna()].drop(columns="seed")
    shown = pd.DataFrame({f"minus {baseline}": others_of(experiment)})
    for measure in measured:
        found = results.loc[results["measure"] == measure, ["difference", "low", "high"]]
        cells = found.itertuples(index=False)
        shown[MEASURES[measure]] = [f"{difference:+.3g} [{low:.3g}, {high:.3g}]" for difference, low, high in cells]
    told = caption(
        experiment,
        f"Each method minus {baseline} after the last round, paired by prompt and seed; the win rate is against the "
        f"opponent {experiment.opponents[0]} (a tie counts ½, an invalid verdict not at all), tokens are those of a "
        "response. An interval without 0 tells a method apart; every interval stands for itself, not corrected for the "
        "number of comparisons.",
        prompts=rows["prompt_id"].nunique(),
        shown="brackets",
    )
    save(table, results, shown, told)
    return Summary(f"{len(results)} rows -> {table}")


run(main)
