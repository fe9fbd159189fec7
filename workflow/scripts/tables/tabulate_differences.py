"""Write the difference of every method from the baseline, paired by prompt and seed."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import differences, others_of
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.equal_costs import equal_cost_facts
from prefloop.report.tables import TABLE_MEASURES, given_measures, save_table
from prefloop.report.win_rates import opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write the last round of every method minus the baseline's; brackets are 95 % bootstrap CIs.

    Differences are paired: the same prompts and seeds are drawn on both sides. They are not corrected for their
    number, so nothing is bold.

    Args:
        table: Where the CSV goes, next to its .tex and caption .rst.
    """
    baseline, rows = experiment.baseline, judgments(experiment)
    measures = given_measures(rows)
    data = differences(rows, experiment, measures)
    data = data[data["seed"].isna()].drop(columns="seed")
    shown = pd.DataFrame({f"minus {experiment.label(baseline)}": map(experiment.label, others_of(experiment))})
    for measure in measures:
        cells = data.loc[data["measure"] == measure, ["difference", "low", "high"]].itertuples(index=False)
        shown[TABLE_MEASURES[measure]] = [f"{mean:+.3g} [{low:.3g}, {high:.3g}]" for mean, low, high in cells]
    text = caption(
        f"Each method minus {experiment.label(baseline)} after the last round, paired by prompt and seed, with win "
        f"rates against {opponent_label(experiment.opponents[0])}.",
        interval_sentence(experiment, "brackets"),
        "A difference is significant if its CI excludes 0; CIs are not corrected for the number of comparisons.",
        *equal_cost_facts(experiment),
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
