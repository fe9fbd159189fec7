"""Draw wins, ties and losses of every method against each of its opponents."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.results import comparisons
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.labels import for_figure, relabeled
from prefloop.report.outcome_bars import draw_outcomes, even_clause, opponent_clause, outcome_shares, prompts_clause
from prefloop.report.plotting import note_evaluator, save_figure
from prefloop.report.significance import significance_sentence


def main(*, experiment: Annotated[Experiment, arg(name="")], figure: Path) -> Summary:
    """Draw stacked bars of outcomes at the last round, and write the win rate with its 95 % CI next to each.

    Args:
        figure: Where the figure goes, next to its .svg, .png, .csv and caption .rst.
    """
    rows = comparisons(experiment, experiment.against_everybody())
    data = outcome_shares(rows)
    picture = draw_outcomes(for_figure(experiment, data)[1], "prompts" if experiment.samples == 1 else "samples")
    note_evaluator(picture, experiment)
    shares = relabeled(experiment, data)
    by_opponent = relabeled(experiment, rows).groupby("opponent", sort=False)
    text = caption(
        "Outcomes of the last round's samples against each opponent's of the same prompt, and win rates, where a tie "
        f"counts ½ and an invalid judgment does not count{prompts_clause(shares)}.",
        interval_sentence(experiment, "brackets"),
        significance_sentence([even_clause(shares), *(opponent_clause(part, str(name)) for name, part in by_opponent)]),
    )
    save_figure(picture, figure, data, text)
    return Summary(f"{len(data)} comparisons against {data['opponent'].nunique()} opponents -> {figure}")


run(main)
