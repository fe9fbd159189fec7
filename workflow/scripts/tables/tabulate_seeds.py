"""Write the results of every run after the last round."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import judgments
from prefloop.evaluation.summaries import final_seeds
from prefloop.report.captions import caption
from prefloop.report.feedback_labels import evaluators_sentence
from prefloop.report.labels import relabeled
from prefloop.report.tables import given_measures, save_table, table_label
from prefloop.report.win_rates import opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write one row per method, seed and measure.

    Args:
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    rows = judgments(experiment)
    measures = given_measures(rows, experiment)
    data = final_seeds(rows, experiment, measures)
    shown = data.pivot(index=["method", "seed"], columns="measure", values="mean")
    shown = shown.reindex(data.set_index(["method", "seed"]).index.unique())[measures]
    shown = shown.rename(columns=table_label).map("{:.3g}".format).replace("nan", "--").reset_index()
    shown = relabeled(experiment, shown)
    text = caption(
        "Mean of every run on eval prompts after the last round, with win rates against "
        f"{opponent_label(experiment.opponents[0])}; invalid judgments do not count.",
        "Runs of one seed share prompts and clusters, so differences between methods are taken within a seed.",
        evaluators_sentence(experiment),
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
