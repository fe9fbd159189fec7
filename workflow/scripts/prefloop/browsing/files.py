"""Where the rows lie that the browse page shows: those a config names, or what is there so far."""

import re
from collections.abc import Iterable, Iterator
from csv import DictReader
from dataclasses import dataclass, replace
from pathlib import Path

from prefloop.experiment import Contest, Experiment
from prefloop.rows import InputError

STEP = re.compile(r"(\w+)/seed-(\d+)/round-(\d+)/step-(\d+)", re.ASCII)
VERDICTS = re.compile(
    r"(?:(?P<method>\w+)/seed-(?P<seed>\d+)/round-(?P<round>\d+)(?:/checkpoint-(?P<checkpoint>\d+))?"
    r"|(?P<untrained>base|initial))/evaluation/temperature-(?P<temperature>\d+\.\d+)/against-(?P<opponent>\w+)\.jsonl",
    re.ASCII,
)


@dataclass
class Files:
    """Where the rows of an experiment lie."""

    experiment: Experiment
    contests: list[Contest]
    """Whose verdicts are shown."""
    clusters: list[Path]
    """clusters.csv of every method, clusters_eval.csv beside it."""
    arms: bool = True
    """Whether every step has its arms.json."""
    complete: bool = True
    """Whether a missing file is an error; else what it would hold is left out."""

    def has(self, *paths: Path) -> bool:
        """Whether to read these files; they may only be missing from an experiment that is not complete."""
        return self.complete or all(path.is_file() for path in paths)


def files_of(experiment: Experiment, clusters: Iterable[Path], verdicts: Iterable[Path], arms: bool) -> Files:
    """The files that a config asks for."""
    contests = [contest_of(path, experiment.root) for path in verdicts]
    return Files(experiment, contests, list(clusters), arms)


def found_below(experiment: Experiment) -> Files:
    """What lies in an experiment's folder so far; InputError if nothing does."""
    root = experiment.root
    folders = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/seed-*/round-*/step-*"))]
    runs = [match.groups() for folder in folders if (match := STEP.fullmatch(folder))]
    if not runs:
        raise InputError(
            f"{root}: no run's folder <method>/seed-<seed>/round-<round>/step-<step> here, nothing to show"
        )
    methods = tuple(dict.fromkeys(run[0] for run in runs))
    seeds, rounds, steps = ({int(run[i]) for run in runs} for i in (1, 2, 3))
    own = [root / method / "clusters.csv" for method in methods]
    return Files(
        replace(experiment, methods=methods, seeds=tuple(sorted(seeds)), rounds=max(rounds), steps=max(steps)),
        [contest_of(path, root) for path in sorted(root.glob("**/evaluation/*/against-*.jsonl"))],
        [path if path.is_file() else root / "clusters.csv" for path in own],
        complete=False,
    )


def contest_of(path: Path, root: Path) -> Contest:
    """The contest whose verdicts a file below `root` holds; InputError if its name says none."""
    match = VERDICTS.fullmatch(path.relative_to(root).as_posix())
    if not match:
        raise InputError(f"{path}: not the name of a file of verdicts")
    return Contest(
        method=match["method"] or match["untrained"],
        seed=int(match["seed"] or -1),
        round=int(match["round"] or 0),
        temperature=float(match["temperature"]),
        opponent=match["opponent"],
        checkpoint=int(match["checkpoint"]) if match["checkpoint"] else None,
    )


def csv_rows(path: Path) -> Iterator[dict]:
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            yield from DictReader(file)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
