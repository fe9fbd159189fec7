"""Draw the perplexity of plain text by round."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.perplexity_results import perplexities
from prefloop.report.captions import caption, count_of
from prefloop.report.labels import for_figure
from prefloop.report.perplexity_captions import text_clause
from prefloop.report.perplexity_curves import draw_perplexity
from prefloop.report.plotting import save_figure


def main(*, experiment: Annotated[Experiment, arg(name="")], text: str, figure: Path) -> Summary:
    """Draw one line per method; points are runs.

    Args:
        text: The plain text on which perplexity was measured.
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    data, seeds = perplexities(experiment), len(experiment.seeds)
    sentence = caption(
        f"Perplexity of every round's policy {text_clause(text, data)}, with bits per byte on the right; "
        "the horizontal line is the initial policy.",
        f"{'Lines are means over seeds and small points are runs; t' if seeds > 1 else 'T'}here is no CI, because all "
        f"policies read the same text and each method has {count_of(seeds, 'seed')}.",
        "A line that rises shows that the policy predicts ordinary text less well than before.",
    )
    save_figure(draw_perplexity(*for_figure(experiment, data)), figure, data, sentence)
    return Summary(f"{len(data)} perplexities -> {figure}")


run(main)
