"""Write the browse page: an experiment's pairs, responses, clusters and verdicts in one HTML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.browsing.annotated import pairs_and_responses
from prefloop.browsing.arms import clusters_and_maps
from prefloop.browsing.evaluated import contests_and_changes
from prefloop.browsing.files import files_of, found_below
from prefloop.browsing.page import data_of, page_of
from prefloop.experiment import Experiment
from prefloop.progress import Summary
from prefloop.rows import whole

TEMPLATE = Path(__file__).parents[1] / "browse"


@dataclass
class Shown(Experiment):
    """Which runs of an experiment to show; without methods, whatever lies below `root` so far."""

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
    verdicts: tuple[Path, ...] = (),
    arms: bool = True,
    most: int = 5000,
) -> Summary:
    """Write one page that needs no server and no network. By hand: browse.py --root results/default --output page.html

    Args:
        experiment: Which runs.
        output: Where the page goes.
        clusters: clusters.csv of every method; clusters_eval.csv stands beside each.
        verdicts: The verdicts to show.
        arms: Whether every step has its arms.json.
        most: Rows of a table that the page holds; of more, so many are drawn at random.
    """
    files = files_of(experiment, clusters, verdicts, arms) if experiment.methods else found_below(experiment)
    pairs, responses, rewards = pairs_and_responses(files, most)
    arms_of_runs, maps = clusters_and_maps(files, rewards)
    contests, changes = contests_and_changes(files, most)
    tables = [pairs, responses, arms_of_runs, contests, changes]
    shown = files.experiment
    about = f"methods: {', '.join(shown.methods)} · seeds: {', '.join(map(str, shown.seeds))} · rounds: {shown.rounds}"
    about += f" · steps a round: {shown.steps}"
    with whole(output) as partial:
        partial.write_text(page_of(data_of(shown.root.resolve().name, about, tables, maps), TEMPLATE), encoding="utf-8")
    told = ", ".join(f"{len(table.rows)} of {table.total} {table.label.lower()}" for table in tables)
    return Summary(f"{told} -> {output}")


run(main)
