"""Draw a map of the training prompts: the clusters, and which prompts each method annotated."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.csv_files import read_frame
from prefloop.core.progress import Summary
from prefloop.evaluation.results import annotated
from prefloop.report.captions import caption
from prefloop.report.labels import for_figure
from prefloop.report.plotting import save_figure
from prefloop.report.prompt_map import draw_map, with_pulls


def main(*, experiment: Annotated[Experiment, arg(name="")], clusters: tuple[Path, ...], figure: Path) -> Summary:
    """Draw the map, one panel per method: color and number show the cluster, and size the draws over all seeds.

    Args:
        clusters: The clusters.csv of every method; methods may share one.
        figure: Path of the .pdf; its .svg, .png, .csv and caption .rst are written next to it.
    """
    maps = {method: read_frame(path) for method, path in zip(experiment.methods, clusters, strict=True)}
    data = with_pulls(maps, annotated(experiment))
    text = caption(
        "Training prompts in the plane of the first two principal components of their embeddings, with numbers at the "
        "cluster centers. Colored prompts were annotated in at least one seed, and larger ones more often."
    )
    save_figure(
        draw_map(for_figure(experiment, data)[1]),
        figure,
        data[["method", "prompt_id", "cluster", "x", "y", "pulls"]],
        text,
    )
    return Summary(f"{len(data)} prompts of {len(maps)} methods in {data['cluster'].max() + 1} clusters -> {figure}")


run(main)
