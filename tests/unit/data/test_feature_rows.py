"""Feature files: deterministic bytes, checked sizes, and shards that are gathered into one file."""

import numpy as np
import pytest

from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.data.feature_rows import gather_features, read_features, write_features

VALUES = np.arange(6, dtype=np.float32).reshape(3, 2)


def rows(*keys: tuple[str, int]) -> list[dict]:
    return [{"prompt_id": prompt, "response_id": number} for prompt, number in keys]


def test_equal_numbers_give_equal_bytes(tmp_path):
    write_features(tmp_path / "a.npy", VALUES)
    write_features(tmp_path / "b.npy", list(VALUES))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert (read_features(tmp_path / "a.npy", 3) == VALUES).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (VALUES, "3 rows, expected 2"),
        (VALUES.astype(np.float64), "float64 of shape"),
        (VALUES[0], "float32 of shape"),
        (np.full((2, 2), np.nan, dtype=np.float32), "expected finite"),
        (b"text", "not a NumPy file"),
        (None, "no such file"),
    ],
)
def test_damaged_files_raise(tmp_path, content, message):
    path = tmp_path / "features.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=message):
        read_features(path, 2)


def test_shards_are_gathered_in_the_order_of_the_rows(tmp_path):
    parts = [rows(("a", 0), ("c", 0)), [], rows(("b", 1))]
    for number, (part, values) in enumerate(zip(parts, (VALUES[[0, 2]], [], VALUES[[1]]), strict=True)):
        write_rows(tmp_path / f"{number}.jsonl", part)
        write_features(tmp_path / f"{number}.npy", values)
    files = [[tmp_path / f"{number}.{suffix}" for number in range(3)] for suffix in ("jsonl", "npy")]
    assert (np.stack(gather_features(*files, rows(("a", 0), ("b", 1), ("c", 0)))) == VALUES).all()
