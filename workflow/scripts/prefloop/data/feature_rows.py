"""Feature files: one row of float32 numbers per response, in the order of the step's logprobs.jsonl."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefloop.core.errors import InputError
from prefloop.core.files import atomic_write
from prefloop.core.jsonl import iterate_rows

Features = NDArray[np.float32]
Key = tuple[str, int]  # prompt_id, response_id


def write_features(path: Path, rows: Sequence[Features | None]) -> None:
    """Write features [responses, features] to a NumPy file. Its bytes depend only on the numbers."""
    values = np.asarray(rows, dtype="<f4").reshape(len(rows), -1) if len(rows) else np.zeros((0, 0), dtype="<f4")
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def read_features(path: Path, responses: int) -> Features:
    """Read the features [responses, features] of a file.

    Raises:
        InputError: The file is missing or damaged, or has a different number of responses.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the features of a step's responses")
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: not a NumPy file ({error}); make the step again") from error
    if values.dtype != np.dtype("<f4") or values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(f"{path}: {values.dtype} of shape {values.shape}, expected finite float32 numbers in rows")
    if len(values) != responses:
        raise InputError(f"{path}: {len(values)} rows, expected {responses}, one per response; make the step again")
    return np.asarray(values)


def gather_features(shards: Sequence[Path], files: Sequence[Path], rows: Iterable[dict]) -> list[Features]:
    """Read the features of all shards and return them in the order of `rows`.

    Args:
        shards: logprobs.jsonl of every shard.
        files: The features of every shard.
        rows: The gathered rows.
    """
    features: dict[Key, Features] = {}
    for shard, file in zip(shards, files, strict=True):
        keys = [key_of_row(row) for row in iterate_rows(shard, ["prompt_id", "response_id"], may_be_empty=True)]
        features |= zip(keys, read_features(file, len(keys)), strict=True)
    return [features[key_of_row(row)] for row in rows]


def key_of_row(row: dict) -> Key:
    return row["prompt_id"], row["response_id"]
