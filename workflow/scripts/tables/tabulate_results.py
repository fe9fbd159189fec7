"""Write the results of the last round by method, as CSV and LaTeX."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.perplexity_results import final_perplexities, perplexities
from prefloop.evaluation.results import judgments
from prefloop.evaluation.summaries import final_results
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.feedback_labels import evaluators_sentence
from prefloop.report.labels import relabeled
from prefloop.report.perplexity_captions import text_clause
from prefloop.report.significance import bold_sentence
from prefloop.report.tables import given_measures, save_table, table_label, with_interval
from prefloop.report.truncation_facts import truncation_facts
from prefloop.report.win_rates import opponent_label


def main(
    *,
    experiment: Annotated[Experiment, arg(name="")],
    table: Path,
    divergence: bool = False,
    text: str | None = None,
) -> Summary:
    """Write the table; brackets are 95 % CIs over prompts, and over seeds if there are several.

    Args:
        table: Path of the .csv; its .tex and caption .rst are written next to it.
        divergence: Whether KL was measured, so that it is a column.
        text: The plain text on which perplexity was measured, so that it is a column.
    """
    rows = judgments(experiment)
    measures = given_measures(rows, experiment)
    data, best_rows = final_results(rows, experiment, measures, divergence)
    shown = relabeled(experiment, data[["method", "seeds"]].copy())
    for measure in measures:
        bold = best_rows[measure] if measure != "n_tokens" else ()
        shown[table_label(measure)] = with_interval(data, measure, bold)
    shown["truncated"] = data["truncated"].map("{:.2f}".format)
    if divergence:
        shown["KL"] = data["kl"].map("{:.3g}".format)
    perplexity = ""
    if text is not None:
        by_round = perplexities(experiment)
        data = data.merge(final_perplexities(by_round, experiment), on="method", how="left", validate="1:1")
        shown["perplexity"] = data["perplexity"].map("{:.4g}".format)
        perplexity = f", perplexity per token {text_clause(text, by_round)}"
    shown["prompts"] = data["prompts"].map("{:.0f}".format)
    shown["generated tokens"] = data["generated_tokens"].map("{:,.0f}".format)
    shown["PFLOPs"] = (data["flops"] / 1e15).map("{:.2f}".format)
    text = caption(
        "Results on eval prompts after the last round, with win rates against "
        f"{opponent_label(experiment.opponents[0])}{perplexity} and the cost of alignment averaged over seeds.",
        interval_sentence(experiment, "brackets"),
        bold_sentence(len(experiment.seeds)),
        evaluators_sentence(experiment),
        *(warnings := truncation_facts(experiment)),
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}", warning=" ".join(warnings))


run(main)
