"""The files that the browse page reads: those that a config needs, or those that exist so far."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from prefloop.config.experiment import Comparison, Experiment
from prefloop.core.errors import InputError

# Hidden methods, from which methods copy their first step (share_first_step), begin with an underscore.
STEP = re.compile(r"([^\W_]\w*)/seed-(\d+)/round-(\d+)/step-(\d+)", re.ASCII)
JUDGMENTS = re.compile(
    r"(?:(?P<method>\w+)/seed-(?P<seed>\d+)/round-(?P<round>\d+)(?:/checkpoint-(?P<checkpoint>\d+))?"
    r"|(?P<untrained>base|initial))/evaluation/temperature-(?P<temperature>\d+\.\d+)/against-(?P<opponent>\w+)\.jsonl",
    re.ASCII,
)


@dataclass
class Files:
    """The files of an experiment."""

    experiment: Experiment
    comparisons: list[Comparison]
    """Comparisons whose judgments are shown."""
    clusters: list[Path]
    """clusters.csv of every method, next to its clusters_eval.csv."""
    arms: bool = True
    """Whether every step has its arms.json."""
    complete: bool = True
    """Whether a missing file is an error. If not, its rows are omitted."""

    def has(self, *paths: Path) -> bool:
        """Whether to read these files. Files may be missing only if the experiment is not complete."""
        return self.complete or all(path.is_file() for path in paths)


def files_of(experiment: Experiment, clusters: Iterable[Path], judgments: Iterable[Path], arms: bool) -> Files:
    """Return the files that a config needs."""
    comparisons = [comparison_of(path, experiment.root) for path in judgments]
    return Files(experiment, comparisons, list(clusters), arms)


def found_below(experiment: Experiment) -> Files:
    """Return the files that exist in an experiment's folder so far. Raise InputError if there are none."""
    root = experiment.root
    folders = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/seed-*/round-*/step-*"))]
    runs = [match.groups() for folder in folders if (match := STEP.fullmatch(folder))]
    if not runs:
        raise InputError(
            f"{root}: nothing to show, because there is no folder <method>/seed-<seed>/round-<round>/step-<step>"
        )
    methods = tuple(dict.fromkeys(run[0] for run in runs))
    seeds, rounds, steps = ({int(run[i]) for run in runs} for i in (1, 2, 3))
    own_clusters = [root / method / "clusters.csv" for method in methods]
    return Files(
        replace(experiment, methods=methods, seeds=tuple(sorted(seeds)), rounds=max(rounds), steps=max(steps)),
        [comparison_of(path, root) for path in sorted(root.glob("**/evaluation/*/against-*.jsonl"))],
        [path if path.is_file() else root / "clusters.csv" for path in own_clusters],
        complete=False,
    )


def comparison_of(path: Path, root: Path) -> Comparison:
    """Return the comparison of a file of judgments in `root`. Raise InputError if the file has another name."""
    match = JUDGMENTS.fullmatch(path.relative_to(root).as_posix())
    if not match:
        raise InputError(f"{path}: not the name of a file of judgments")
    return Comparison(
        method=match["method"] or match["untrained"],
        seed=int(match["seed"] or -1),
        round=int(match["round"] or 0),
        temperature=float(match["temperature"]),
        opponent=match["opponent"],
        checkpoint=int(match["checkpoint"]) if match["checkpoint"] else None,
    )
