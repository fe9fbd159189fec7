"""Draw the difference of every method from the baseline after the last round, paired by prompt and seed."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.comparisons import differences, others_of
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.difference_dots import difference_clause, draw_differences
from prefloop.report.equal_costs import equal_cost_facts
from prefloop.report.feedback_labels import evaluators_sentence
from prefloop.report.labels import for_figure, relabeled
from prefloop.report.plotting import note_evaluator, save_figure
from prefloop.report.significance import significance_sentence
from prefloop.report.win_rates import all_measures, measure_label, opponent_label


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw the last round of every method minus the baseline's, one panel per measure; bars are 95 % CIs.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    baseline, methods, table = experiment.baseline, others_of(experiment), judgments(experiment)
    measures = all_measures(table, experiment)
    data = differences(table, experiment, measures)
    picture = draw_differences(*for_figure(experiment, data))
    note_evaluator(picture, experiment)
    text = caption(
        f"Every method after the last round minus {experiment.label(baseline)}, paired by prompt and seed: "
        f"{', '.join(map(measure_label, measures))} against {opponent_label(experiment.opponents[0])}.",
        interval_sentence(experiment, "bars", differences=True),
        significance_sentence(
            [difference_clause(relabeled(experiment, data), measure) for measure in measures], len(experiment.seeds)
        ),
        evaluators_sentence(experiment),
        *equal_cost_facts(experiment),
    )
    save_figure(picture, figure, data, text)
    return Summary(f"{', '.join(measures)} of {', '.join(methods)} minus {baseline} -> {figure}")


run(main)
