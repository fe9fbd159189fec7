"""Write the results of the last round by method, as CSV and LaTeX."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import judgments
from prefloop.evaluation.summaries import final_results
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.labels import relabeled
from prefloop.report.tables import TABLE_MEASURES, given_measures, save_table, with_interval
from prefloop.report.win_rates import opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], table: Path) -> Summary:
    """Write the table; brackets are 95 % bootstrap CIs over prompts, and over seeds if there are several.

    Args:
        table: Where the CSV goes, next to its .tex and caption .rst.
    """
    rows = judgments(experiment)
    measures = given_measures(rows)
    data, best_rows = final_results(rows, experiment, measures)
    shown = relabeled(experiment, data[["method", "seeds"]].copy())
    for measure in measures:
        bold = best_rows[measure] if measure != "n_tokens" else ()
        shown[TABLE_MEASURES[measure]] = with_interval(data, measure, bold)
    shown["prompts"] = data["prompts"].map("{:.0f}".format)
    shown["generated tokens"] = data["generated_tokens"].map("{:,.0f}".format)
    shown["PFLOPs"] = (data["flops"] / 1e15).map("{:.2f}".format)
    text = caption(
        "Results on eval prompts after the last round, with win rates against "
        f"{opponent_label(experiment.opponents[0])} and the mean cost of alignment over seeds.",
        interval_sentence(experiment, "brackets"),
        "Bold is significantly better than all other rows, with Bonferroni's correction.",
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
