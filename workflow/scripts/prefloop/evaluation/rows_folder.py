"""Writing a rows folder: an experiment's numbers in a few tables that are small enough for git.

`result_files.py` and `figure_rows.py` read it instead of the experiment's folder. It does not contain texts of prompts
or responses.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.config.recorded_settings import SETTINGS_FILE, read_settings
from prefloop.config.resolve import trained_here
from prefloop.core.csv_files import write_cells, write_frame
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, write_json
from prefloop.core.jsonl import iterate_rows
from prefloop.evaluation.figure_rows import STORED, figure_files, rows_to_store
from prefloop.evaluation.perplexity_results import FIELDS, PERPLEXITY
from prefloop.evaluation.result_files import (
    COSTS,
    FORMAT,
    INDEX,
    PROMPTS,
    SPENT,
    StoredFile,
    cell_of,
    eval_digests,
    eval_families,
    reward_model_digest,
    samples_digest,
    stored_file,
)
from prefloop.evaluation.results import AMOUNTS, alignment_costs, cost_files, evaluation_cost_files
from prefloop.evaluation.row_counts import COUNTS, row_counts


def write_rows_folder(
    experiment: Experiment,
    folder: Path,
    shared: Iterable[Path] = (),
    *,
    divergence: bool = False,
    perplexity: bool = False,
    figures: Sequence[str] = (),
) -> int:
    """Write the rows of a finished experiment.

    Args:
        experiment: The runs.
        folder: The rows folder. An existing one is replaced.
        shared: Costs of stages that methods share.
        divergence: Whether KL(policy‖initial policy) was measured.
        perplexity: Whether the perplexity of plain text was measured.
        figures: Figures whose other files are stored too: training steps, arms, drawn prompts, pairs, clusters.

    Returns:
        The number of rows, without those of costs and counts.

    Raises:
        InputError: A file of the experiment is missing or invalid.
    """
    root, shared = experiment.root, list(shared)
    recorded = read_settings(root)
    shutil.rmtree(folder, ignore_errors=True)
    families, digests = eval_families(root), eval_digests(root)
    prompts = [(number, name, families[name], digests[name]) for number, name in enumerate(digests)]
    write_cells(folder / PROMPTS, ["prompt", "prompt_id", "family", "sha256"], prompts)
    numbers = {name: number for number, name, *_ in prompts}
    tables: dict[str, list[tuple[StoredFile, Path]]] = {}
    for path in row_files(experiment, divergence, perplexity):
        stored = stored_file(str(path.relative_to(root)))
        tables.setdefault(stored.table, []).append((stored, path))
    count = sum(write_table(folder / name, files, numbers) for name, files in tables.items())
    needed = [path for name in figures for path in figure_files(experiment, recorded.config, name)]
    count += write_figure_rows(experiment, folder, dict.fromkeys(path for path in needed if path.name in STORED))
    reports = [root / f"reward_models/{name}.report.json" for name in trained_here(recorded.config)]
    for path in dict.fromkeys([*(path for path in needed if path.suffix == ".csv"), *reports]):
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    write_costs(folder / COSTS, cost_rows(experiment, shared, divergence, perplexity))
    write_frame(folder / SPENT, spent_by_round(experiment))
    evaluators = dict(zip(recorded.experiment.evaluators, recorded.experiment.evaluated_by, strict=True))
    content = {"evaluator": recorded.experiment.evaluator, "evaluators": evaluators}
    content |= {"trained_by": list(experiment.trained_by)}
    write_json(folder / SETTINGS_FILE, content | {"settings": recorded.config})
    write_json(folder / INDEX, rows_index(experiment, shared))
    return count


def row_files(experiment: Experiment, divergence: bool, perplexity: bool) -> list[Path]:
    """The JSON-lines files that are stored: all judgments, and the KL values and perplexities of every round."""
    files = [experiment.root / comparison.judgments for comparison in experiment.comparisons]
    files += [experiment.root / c.judged_by(name) for name in experiment.evaluators for c in experiment.comparisons]
    if perplexity:
        folders = [experiment.root / "initial", *(folder for _, folder in experiment.folders())]
        files += [folder / PERPLEXITY for folder in folders]
    if divergence:
        files += [folder / "evaluation/kl.jsonl" for _, folder in experiment.folders()]
    return list(dict.fromkeys(files))


def rows_index(experiment: Experiment, shared: Iterable[Path]) -> dict:
    """The index of a rows folder: hashes of data that it does not contain, and the cost files that methods share."""
    root = experiment.root
    folders = dict.fromkeys(comparison.folder for comparison in experiment.comparisons if not comparison.round)
    models = sorted(path.parent.name for path in root.glob("reward_models/*/manifest.json"))
    return {
        "format": FORMAT,
        "samples": {folder: samples_digest(root, folder) for folder in folders},
        "reward_models": {name: reward_model_digest(root, name) for name in models},
        "shared_costs": [str(path.relative_to(root)) for path in shared],
    }


def stored_fields(row: dict) -> dict:
    """The fields of a row that are stored: numbers, null and outcomes, but no other text, lists or mappings."""
    return {
        name: value
        for name, value in row.items()
        if name != "prompt_id" and (value is None or isinstance(value, int | float) or "outcome" in name)
    }


def write_table(path: Path, files: Sequence[tuple[StoredFile, Path]], numbers: dict[str, int]) -> int:
    """Write the rows of one kind of file, for all methods and rounds of a seed, and return their number.

    Rows are interleaved: the first row of every file, then the second, and so on. Equal numbers of a prompt, such as
    the opponent's reward, are then near each other, which makes the compressed table a third smaller.

    Args:
        path: Path of the table.
        files: The files, each with its identification in the rows folder.
        numbers: Numbers of the eval prompts, by prompt_id.
    """
    tables = [list(table_cells(stored, file, numbers)) for stored, file in files]
    rows = [row for nth_rows in zip_longest(*tables) for row in nth_rows if row is not None]
    write_dicts(path, rows)
    return len(rows)


def table_cells(stored: StoredFile, file: Path, numbers: dict[str, int]) -> Iterator[dict]:
    """The rows of a file as cells of its table. Rows of plain text have no prompt.

    Raises:
        InputError: A prompt is not an eval prompt.
    """
    keys = {"method": stored.method, "round": stored.round} if stored.method else {}
    of_prompts = not file.match(PERPLEXITY)
    for row in iterate_rows(file, ["prompt_id"] if of_prompts else FIELDS):
        if of_prompts and row["prompt_id"] not in numbers:
            raise InputError(f"{file}: prompt {row['prompt_id']} is not an eval prompt; evaluate again")
        prompt = {"prompt": numbers[row["prompt_id"]]} if of_prompts else {}
        yield keys | prompt | {name: cell_of(value) for name, value in stored_fields(row).items()}


def write_figure_rows(experiment: Experiment, folder: Path, files: Iterable[Path]) -> int:
    """Write the rows of files that only figures read, and return their number. Their prompts have ids, not numbers."""
    tables: dict[str, list[dict]] = {}
    for path in files:
        stored = stored_file(str(path.relative_to(experiment.root)))
        keys = {"method": stored.method, "round": stored.round} if stored.method else {}
        rows = rows_to_store(path, experiment)
        cells = [{name: cell_of(value) for name, value in row.items()} for row in rows]
        tables.setdefault(stored.table, []).extend(keys | row for row in cells)
    for name, rows in tables.items():
        write_dicts(folder / name, rows)
    return sum(map(len, tables.values()))


def write_dicts(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write mappings as a table; a missing key is an empty cell."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    write_cells(path, header, ([row.get(name) for name in header] for row in rows))


def cost_rows(
    experiment: Experiment, shared: Iterable[Path], divergence: bool, perplexity: bool
) -> Iterator[tuple[StoredFile, dict]]:
    """Every cost file of an experiment, once: first those that belong to no run, then seed by seed."""
    paths = [*shared, *(path for _, path in cost_files(experiment))]
    paths += [experiment.root / path for path in evaluation_cost_files(experiment, divergence, perplexity)]
    files = [(stored_file(str(path.relative_to(experiment.root))), path) for path in dict.fromkeys(paths)]
    order = {str(seed): position for position, seed in enumerate(experiment.seeds)}
    for stored, path in sorted(files, key=lambda item: order.get(item[0].seed, -1)):
        yield stored, read_json(path)


def write_costs(path: Path, costs: Iterable[tuple[StoredFile, dict]]) -> None:
    """Write cost files as one table."""
    write_dicts(
        path, [stored._asdict() | {name: cell_of(value) for name, value in cost.items()} for stored, cost in costs]
    )


def spent_by_round(experiment: Experiment) -> pd.DataFrame:
    """The cost of alignment of every round of every run, seed by seed.

    Returns:
        Columns method, seed, round, the COUNTS of row_counts, labels, generated_tokens, flops, and seconds (summed over
        stages).
    """
    keys = ["method", "seed", "round"]
    table = row_counts(experiment, COUNTS[0])
    for column in COUNTS[1:]:
        table = table.merge(row_counts(experiment, column), on=keys)
    costs = alignment_costs(experiment).rename(columns={"tokens_out": "generated_tokens"})
    sums = costs.groupby(keys)[[*reversed(AMOUNTS), "seconds"]].sum().reset_index()
    table = table.merge(sums, on=keys)
    positions = {seed: position for position, seed in enumerate(experiment.seeds)}
    return table.sort_values("seed", key=lambda column: column.map(positions), kind="stable", ignore_index=True)
