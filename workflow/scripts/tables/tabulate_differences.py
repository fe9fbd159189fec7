"""Write the difference of every method from the baseline, paired by prompt and seed."""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import differences
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.equal_costs import equal_cost_facts
from prefloop.report.feedback_labels import evaluators_sentence
from prefloop.report.tables import given_measures, in_brackets, save_table, table_label
from prefloop.report.win_rates import opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write the last round of every method minus the baseline's; brackets are 95 % CIs.

    Differences are paired by prompt and seed. Brackets are not corrected for multiple comparisons, so nothing is bold.

    Args:
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    baseline, rows = experiment.baseline, judgments(experiment)
    measures = given_measures(rows, experiment)
    data = differences(rows, experiment, measures)
    data = data[data["seed"].isna()].drop(columns="seed")
    shown = pd.DataFrame({f"minus {experiment.label(baseline)}": data["method"].map(experiment.label)})
    shown["measure"] = data["measure"].map(table_label)
    ends = zip(data["difference"], data["low"], data["high"], strict=True)
    shown["difference"] = [
        f"{mean:+.3g} {in_brackets(low, high)}" if np.isfinite(mean) else "--" for mean, low, high in ends
    ]
    for column, label in {"p": "p", "p_holm": "Holm's p", "improved": "improved"}.items():
        shown[label] = [f"{value:.2g}" if np.isfinite(value) else "--" for value in data[column]]
    shown["contrast"] = data["contrast"]
    single = " (over the prompts of 1 seed: it compares policies, not methods)" * (len(experiment.seeds) == 1)
    text = caption(
        f"Each method minus {experiment.label(baseline)} after the last round, paired by prompt and seed, with win "
        f"rates against {opponent_label(experiment.opponents[0])}.",
        interval_sentence(experiment, "brackets", differences=True),
        f"p is two-sided{single}, Holm's p corrects it for the methods of a measure, and improved is the share of "
        f"seeds above {experiment.label(baseline)} (ties count ½); {primary_clause(experiment)}.",
        evaluators_sentence(experiment),
        *equal_cost_facts(experiment),
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


def primary_clause(experiment: Experiment) -> str:
    """A clause with the contrast that was named before the run, if any."""
    primary = experiment.primary
    if not primary.method:
        return "no primary contrast is named (evaluation.primary), so all contrasts are exploratory"
    contrast = f"{experiment.label(primary.method)} in {table_label(primary.measure)}"
    return f"the primary contrast, named in the config, is {contrast}, and others are exploratory"


run(main)
