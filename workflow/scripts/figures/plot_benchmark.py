"""Draw the score of the user's benchmark by round."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.benchmark_runs import benchmark_values
from prefloop.report.benchmark_curves import draw_benchmark
from prefloop.report.captions import caption, count_of
from prefloop.report.labels import for_figure
from prefloop.report.plotting import save_figure


def main(*, experiment: Annotated[Experiment, arg(name="")], label: str, figure: Path) -> Summary:
    """Draw one line per method; points are runs.

    Args:
        label: Name of the score.
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    data = benchmark_values(experiment)
    text = caption(
        f"{label[:1].upper()}{label[1:]} of every round's policy in the config's benchmark, and of the initial policy "
        "as round 0.",
        "Lines are means over seeds and points are runs." if len(experiment.seeds) > 1 else "",
        f"There is no CI: the benchmark gives one number per policy, and each method has "
        f"{count_of(len(experiment.seeds), 'seed')}.",
    )
    save_figure(draw_benchmark(*for_figure(experiment, data), label), figure, data, text)
    return Summary(f"{len(data)} numbers -> {figure}")


run(main)
