"""Numbers of prompts, annotated responses, pairs and optimizer steps of every round, from its files."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.jsonl import iterate_rows
from prefloop.evaluation.result_files import SPENT, rows_folder_of, stored_counts

COUNTS = ("prompts", "annotated_responses", "pairs", "optimizer_steps")


def row_counts(experiment: Experiment, column: str) -> pd.DataFrame:
    """A count by round: columns method, seed, round and `column`, in the order of `Experiment.folders`.

    Args:
        experiment: The runs.
        column: One of COUNTS. `prompts` are those with a label, `annotated_responses` are the rows of rewards.jsonl,
            and `pairs` are the training pairs of the round, including mixed ones.

    Raises:
        InputError: A file is missing, or a rows folder has no row for a round.
    """
    rows = []
    folder = rows_folder_of(experiment.root)
    stored = {} if folder is None else stored_counts(folder, column)
    for keys, path in experiment.folders():
        if folder is None:
            count = count_in_files(experiment, keys["method"], path, column)
        elif (run := (keys["method"], keys["seed"], keys["round"])) in stored:
            count = stored[run]
        else:
            raise InputError(f"{folder / SPENT}: no row for {run[0]}, seed {run[1]}, round {run[2]}")
        rows.append(keys | {column: count})
    return pd.DataFrame(rows)


def count_in_files(experiment: Experiment, method: str, folder: Path, column: str) -> int:
    """A count of one round, from its files."""
    steps = [folder / f"step-{step}" for step in range(1, experiment.steps + 1)]
    if column == "prompts":
        return sum(len(labeled_prompts(step, method in experiment.acquiring)) for step in steps)
    files = {
        "annotated_responses": [step / "rewards.jsonl" for step in steps],
        "pairs": [folder / ("mixed_pairs.jsonl" if method in experiment.mixing else "pairs.jsonl")],
        "optimizer_steps": [folder / "training.jsonl"],
    }
    return sum(1 for path in files[column] for _ in checked_rows(path, column))


def checked_rows(path: Path, column: str) -> Iterator[dict]:
    """The rows of a file, checked for the fields that all rows of its kind have."""
    return iterate_rows(path, ["step", "loss"] if column == "optimizer_steps" else ["prompt_id"])


def labeled_prompts(folder: Path, acquires: bool) -> list[dict]:
    """The rows of a step's prompts.jsonl with labeled responses. These are all rows, unless the method `acquires`."""
    prompts = list(iterate_rows(folder / "prompts.jsonl", ["prompt_id", "cluster"]))
    if not acquires:
        return prompts
    labeled = {row["prompt_id"] for row in iterate_rows(folder / "acquired.jsonl", ["prompt_id"])}
    return [row for row in prompts if row["prompt_id"] in labeled]
