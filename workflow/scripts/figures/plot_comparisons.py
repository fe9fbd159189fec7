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
    """Draw stacked bars of outcomes after the last round, with the win rate and its 95 % CI next to each bar.

    Args:
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    rows = comparisons(experiment, experiment.against_everybody())
    data = outcome_shares(rows)
    picture = draw_outcomes(for_figure(experiment, data)[1], "prompts" if experiment.samples == 1 else "samples")
    note_evaluator(picture, experiment)
    shares = relabeled(experiment, data)
    by_opponent = relabeled(experiment, rows).groupby("opponent", sort=False)
    text = caption(
        "Outcomes of comparing the last round's samples with each opponent's for the same prompt, and win rates, where "
        f"a tie counts ½ and an invalid judgment does not count{prompts_clause(shares)}.",
        interval_sentence(experiment, "brackets"),
        significance_sentence(
            [even_clause(shares), *(opponent_clause(part, str(name)) for name, part in by_opponent)],
            len(experiment.seeds),
        ),
    )
    save_figure(picture, figure, data, text)
    return Summary(f"{len(data)} comparisons against {data['opponent'].nunique()} opponents -> {figure}")


run(main)
