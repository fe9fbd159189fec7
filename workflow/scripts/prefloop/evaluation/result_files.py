"""Reading results from an experiment's folder or from a rows folder, which can replace it.

A rows folder (written by `rows_folder.py`) stores in a few tables what figures need from thousands of result files. The
functions here take a file's path in an experiment's folder. If the folder is a rows folder, they read the stored rows.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from prefloop.core.csv_files import csv_rows
from prefloop.core.errors import InputError
from prefloop.core.files import parse_json, read_json
from prefloop.core.jsonl import check_fields, iterate_rows, read_rows

INDEX = "experiment_rows.json"  # only rows folders have this file
FORMAT = 1
PROMPTS, COSTS, SPENT = "prompts.csv", "costs.csv", "spent.csv"
EVAL_PROMPTS = "prompts/eval.jsonl"  # relative to the experiment's folder
RUN_FILE = re.compile(r"(?P<method>[^/]+)/seed-(?P<seed>\d+)/round-(?P<round>\d+)/(?P<file>.+)")
SAMPLE_FIELDS = ["prompt_id", "response_id", "response"]
REWRITE = "write the rows again: snakemake --cores 1 rows"


class StoredFile(NamedTuple):
    """A file of an experiment's folder, as it is identified in tables of a rows folder.

    The method, seed and round are empty for a file that does not belong to a run.
    """

    method: str
    seed: str
    round: str
    file: str
    """Path relative to the folder of the round, or to the folder of the experiment."""

    @property
    def table(self) -> str:
        """Path of the table with the rows of this file, relative to the rows folder.

        There is one table per seed and kind of file, for all methods and rounds.
        """
        name = f"{self.file.removesuffix('.jsonl').removesuffix('.json')}.csv.gz"
        return f"seed-{self.seed}/{name}" if self.method else name


def stored_file(path: str) -> StoredFile:
    """Split a path relative to an experiment's folder into method, seed, round and file."""
    match = RUN_FILE.fullmatch(path)
    return StoredFile(**match.groupdict()) if match else StoredFile("", "", "", path)


def cell_of(value: Any) -> str:
    """A JSON value as a table cell. Text is unchanged, unless it is empty or could be read as another JSON value."""
    if isinstance(value, str):
        try:
            parse_json(value)
        except ValueError:
            if value:
                return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def value_of(cell: str) -> Any:
    """The value that `cell_of` wrote."""
    try:
        return parse_json(cell)
    except ValueError:
        return cell


def rows_folder_of(path: Path) -> Path | None:
    """The rows folder that a path is in, or the path itself if it is one; None for an experiment's folder.

    Raises:
        InputError: Another version of the project wrote the rows folder.
    """
    folder = next((folder for folder in (path, *path.parents) if (folder / INDEX).is_file()), None)
    if folder is not None and (found := stored_index(folder).get("format")) != FORMAT:
        raise InputError(f"{folder / INDEX}: format {found}, expected {FORMAT}; {REWRITE}")
    return folder


def version_of(path: Path) -> tuple[int, int]:
    """Modification time in ns and size in bytes: they change when a file is rewritten, and are part of cache keys."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def stored_index(folder: Path) -> dict:
    """The index of a rows folder (`rows_folder.rows_index`)."""
    return _read_index(folder / INDEX, version_of(folder / INDEX))


@lru_cache(maxsize=16)
def _read_index(path: Path, version: tuple[int, int]) -> dict:
    return read_json(path)


def has_result(path: Path) -> bool:
    """Whether a file exists, or its rows are in the rows folder."""
    folder = rows_folder_of(path)
    if folder is None or path.is_file():
        return path.is_file()
    stored = stored_file(str(path.relative_to(folder)))
    return (folder / stored.table).is_file() and (stored.method, stored.round) in _stored_rows(folder, stored.table)


def result_rows(path: Path, required: Iterable[str] = ()) -> list[dict]:
    """The rows of a JSON-lines file, as `jsonl.read_rows` returns them, or those that a rows folder has of any file.

    Rows from a rows folder have only prompt_id, numbers and outcomes.

    Raises:
        InputError: The rows are missing or invalid.
    """
    folder = rows_folder_of(path)
    if folder is None:
        return read_rows(path, required)
    stored = stored_file(str(path.relative_to(folder)))
    table, required = folder / stored.table, tuple(required)
    rows = _stored_rows(folder, stored.table).get((stored.method, stored.round))
    if rows is None:
        raise InputError(f"{table}: no rows of {stored.method}, round {stored.round}; {REWRITE}")
    for row in rows:
        if missing := [name for name in required if name not in row]:
            raise InputError(f"{table}: missing {', '.join(missing)}; found {', '.join(row)}")
        check_fields(row, required, str(table))
    return [dict(row) for row in rows]


def _stored_rows(folder: Path, table: str) -> dict[tuple[str, str], list[dict]]:
    """The rows of a table by method and round, which are empty for a policy that does not belong to a run."""
    if not (folder / table).is_file():
        raise InputError(f"{folder / table}: no such file in this rows folder; {REWRITE}")
    names = tuple(row["prompt_id"] for row in stored_prompts(folder))
    return _read_table(folder / table, version_of(folder / table), names)


@lru_cache(maxsize=64)
def _read_table(path: Path, version: tuple[int, int], prompts: tuple[str, ...]) -> dict[tuple[str, str], list[dict]]:
    rows: dict[tuple[str, str], list[dict]] = {}
    for number, cells in enumerate(csv_rows(path), start=2):
        keys = cells.pop("method", ""), cells.pop("round", "")
        row = {}
        if "prompt" in cells:  # only in rows of eval prompts
            index = value_of(cells.pop("prompt"))
            if not isinstance(index, int) or not 0 <= index < len(prompts):
                raise InputError(f"{path}, line {number}: prompt {index}, expected a number from {PROMPTS}")
            row = {"prompt_id": prompts[index]}
        rows.setdefault(keys, []).append(row | {name: value_of(cell) for name, cell in cells.items() if cell})
    return rows


def result_object(path: Path) -> dict:
    """The content of a cost file, from the file or from a rows folder."""
    folder = rows_folder_of(path)
    if folder is None:
        return read_json(path)
    stored = stored_file(str(path.relative_to(folder)))
    table = folder / COSTS
    costs = _read_costs(table, version_of(table)) if table.is_file() else {}
    if stored not in costs:
        raise InputError(f"{table}: no row for {path.relative_to(folder)}; {REWRITE}")
    return dict(costs[stored])


@lru_cache(maxsize=16)
def _read_costs(path: Path, version: tuple[int, int]) -> dict[StoredFile, dict]:
    costs = {}
    for cells in csv_rows(path):
        key = StoredFile(*(cells.pop(name, "") for name in StoredFile._fields))
        costs[key] = {name: value_of(cell) for name, cell in cells.items() if cell}
    return costs


def stored_counts(folder: Path, column: str) -> dict[tuple[str, int, int], int]:
    """A column of counts of a rows folder, by method, seed and round.

    Raises:
        InputError: The column is missing, or a cell is not a number.
    """
    counts = {}
    for number, row in enumerate(csv_rows(folder / SPENT), start=2):
        try:
            counts[row["method"], int(row["seed"]), int(row["round"])] = int(row[column])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / SPENT}, line {number}: no valid {column}; {REWRITE}") from error
    return counts


@lru_cache(maxsize=16)
def _read_prompts(path: Path, version: tuple[int, int]) -> tuple[dict[str, str], ...]:
    rows = tuple(csv_rows(path))
    if any(not row.get("prompt_id") or "family" not in row or "sha256" not in row for row in rows):
        raise InputError(f"{path}: expected the columns prompt_id, family and sha256; {REWRITE}")
    return rows


def stored_prompts(folder: Path) -> tuple[dict[str, str], ...]:
    """The rows of prompts.csv in a rows folder, in the order of their numbers."""
    if not (folder / PROMPTS).is_file():
        raise InputError(f"{folder / PROMPTS}: no such file; {REWRITE}")
    return _read_prompts(folder / PROMPTS, version_of(folder / PROMPTS))


def eval_families(root: Path) -> dict[str, Any]:
    """The `meta.family` of every eval prompt of an experiment, by prompt_id; None if a prompt has no family."""
    if (folder := rows_folder_of(root)) is not None:
        return {row["prompt_id"]: row["family"] or None for row in stored_prompts(folder)}
    rows = iterate_rows(root / EVAL_PROMPTS, ["prompt_id"])
    return {row["prompt_id"]: (row.get("meta") or {}).get("family") for row in rows}


def eval_digests(root: Path) -> dict[str, str]:
    """A hash of the messages of every eval prompt of an experiment, by prompt_id."""
    if (folder := rows_folder_of(root)) is not None:
        return {row["prompt_id"]: row["sha256"] for row in stored_prompts(folder)}
    rows = iterate_rows(root / EVAL_PROMPTS, ["prompt_id", "messages"])
    return {row["prompt_id"]: digest_of(row["messages"]) for row in rows}


def samples_digest(root: Path, folder: str) -> str:
    """A hash of the texts of a policy's samples; `folder` is relative to `root`."""
    if (stored := rows_folder_of(root)) is not None:
        return named_digest(stored, "samples", folder)
    rows = read_rows(root / folder / "samples.jsonl", SAMPLE_FIELDS)
    return digest_of(sorted([row[name] for name in SAMPLE_FIELDS] for row in rows))


def reward_model_digest(root: Path, name: str) -> str:
    """The checksum of the weights of a reward model that an experiment trained."""
    if (folder := rows_folder_of(root)) is not None:
        return named_digest(folder, "reward_models", name)
    return str(read_json(root / f"reward_models/{name}/manifest.json")["sha256"])


def named_digest(folder: Path, kind: str, name: str) -> str:
    """A hash from the index of a rows folder."""
    try:
        return str(stored_index(folder)[kind][name])
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / INDEX}: no entry {name} in {kind}; {REWRITE}") from error


def digest_of(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
