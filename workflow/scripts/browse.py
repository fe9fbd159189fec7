"""Write the browse page: an experiment's pairs, responses, clusters and judgments in one HTML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.browse.annotated import pairs_and_responses
from prefloop.browse.arms import clusters_and_maps
from prefloop.browse.evaluated import comparisons_and_changes
from prefloop.browse.experiment_files import files_of, found_below
from prefloop.browse.page import data_of, page_of
from prefloop.config.experiment import Experiment
from prefloop.core.files import atomic_write
from prefloop.core.progress import Summary

TEMPLATE = Path(__file__).parents[1] / "browse"


@dataclass
class Shown(Experiment):
    """The runs to show; without methods, all runs below `root`."""

    methods: tuple[str, ...] = ()
    """Methods, in the order of their rows."""
    seeds: tuple[int, ...] = ()
    """Seeds of every method."""
    rounds: int = 0
    """Rounds of every run."""
    steps: int = 0
    """Steps of every round."""


def main(
    *,
    experiment: Annotated[Shown, arg(name="")],
    output: Path,
    clusters: tuple[Path, ...] = (),
    judgments: tuple[Path, ...] = (),
    arms: bool = True,
    most: int = 5000,
) -> Summary:
    """Write one page that works without a server or network.

    To run it by hand: browse.py --root results/default --output page.html

    Args:
        output: Output path for the page.
        clusters: clusters.csv of every method; each is next to its clusters_eval.csv.
        judgments: The judgments to show.
        arms: Whether every step has an arms.json.
        most: Maximum number of rows per table; a larger table is sampled at random.
    """
    files = files_of(experiment, clusters, judgments, arms) if experiment.methods else found_below(experiment)
    pairs, responses, rewards = pairs_and_responses(files, most)
    arms_of_runs, maps = clusters_and_maps(files, rewards)
    comparisons, changes = comparisons_and_changes(files, most)
    tables = [pairs, responses, arms_of_runs, comparisons, changes]
    shown = files.experiment
    about = f"methods: {', '.join(shown.methods)} · seeds: {', '.join(map(str, shown.seeds))} · rounds: {shown.rounds}"
    about += f" · steps per round: {shown.steps}"
    with atomic_write(output) as partial:
        partial.write_text(page_of(data_of(shown.root.resolve().name, about, tables, maps), TEMPLATE), encoding="utf-8")
    counts = ", ".join(f"{len(table.rows)} of {table.total} {table.label.lower()}" for table in tables)
    return Summary(f"{counts} -> {output}")


run(main)
