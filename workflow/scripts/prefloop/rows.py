"""The files between stages, JSON lines and tensors: whole or absent, and errors that name file and line."""

import contextlib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO


class InputError(ValueError):
    """Input that a person must mend; the message says where it is, what was found and what to do."""


def choice(registry: dict, word: str, where: str):
    """What a registry has under a word; InputError with the words that it has if there is none."""
    if word not in registry:
        raise InputError(f"{where}: {word!r} is none of {', '.join(registry)}")
    return registry[word]


def first_line(error: Exception) -> str:
    """What an error says, without what a library adds below."""
    return str(error).strip().split("\n")[0]


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, renamed to `path` only when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_rows(path: Path, rows: Iterable[dict]) -> int:
    """Write one JSON object a line and return how many; NaN and infinity are refused, as JSON has neither."""
    count = 0
    with whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_rows(path: Path, required: Iterable[str] = ()) -> list[dict]:
    """All rows of a JSON-lines file (plain or .gz), each an object that has the `required` fields.

    Raises InputError, naming file and line, for a file that is missing, empty or torn, and for a bad row.
    """
    return list(iterate_rows(path, required))


def iterate_rows(path: Path, required: Iterable[str] = (), *, may_be_empty: bool = False) -> Iterator[dict]:
    """As `read_rows`, one row at a time; an empty file is an error unless it `may_be_empty`."""
    return (row for _, row in iterate_placed(path, required, may_be_empty=may_be_empty))


def iterate_placed(
    path: Path, required: Iterable[str] = (), *, may_be_empty: bool = False
) -> Iterator[tuple[int, dict]]:
    """As `iterate_rows`, each row with the byte at which its line starts; `row_at` reads it again from there."""
    path, required, number, place = Path(path), tuple(required), 0, 0
    if not path.is_file():
        raise InputError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}, expected JSON lines")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                yield place, parse_row(line.decode(), required, f"{path}, line {number}")
                place += len(line)
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(
                f"{path}, after line {number}: unreadable ({error}); expected UTF-8, or gzip where the name ends in .gz"
            ) from error
    if number == 0 and not may_be_empty:
        raise InputError(f"{path}: empty file, expected one JSON object a line")


def row_at(file: BinaryIO, place: int) -> dict:
    """The row whose line starts at a byte of a plain JSON-lines file that was read, and so checked, before."""
    file.seek(place)
    return json.loads(file.readline())


def parse_row(line: str, required: Iterable[str], where: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        if not line.strip():
            raise InputError(f"{where}: an empty line, expected one JSON object a line; delete it") from error
        torn = "" if line.endswith("\n") else ", and the line has no end: the file may be torn"
        wrong = f"not JSON ({error.msg} at column {error.colno}){torn}"
        if line.startswith("\ufeff"):
            wrong = "begins with a byte order mark; save the file as UTF-8 without BOM"
        raise InputError(f"{where}: {wrong}; expected one JSON object a line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {type(row).__name__} found, expected one JSON object a line")
    missing = [name for name in required if name not in row]
    if missing:
        raise InputError(f"{where}: missing {', '.join(missing)}; found {', '.join(row) or 'no fields'}")
    return row


def check_known(rows: Iterable[dict], known: Container[str], prompts: Path, answers: Path) -> None:
    """InputError for the first row of `answers` whose prompt is not among those `known` from the file `prompts`."""
    unknown = next((row["prompt_id"] for row in rows if row["prompt_id"] not in known), None)
    if unknown is not None:
        raise InputError(f"{prompts}: no prompt {unknown}, which {answers} answers; make the answers again")


def has_pair(prompt: dict) -> bool:
    """Whether a row of prompts came with a chosen and a rejected response."""
    return "chosen" in prompt and "rejected" in prompt


def write_json(path: Path, value: dict) -> None:
    """Write one JSON document, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """Read one JSON object; InputError if there is none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected one JSON object") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_tensors(path: Path, value: dict) -> None:
    """Write tensors and builtins as torch.save does, whole or not at all; OSError if the disk takes no more.

    Into an open file: an archive saved by name carries the name, which for a temporary file is another every time.
    """
    import torch

    with whole(path) as partial, partial.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch's, while it closes an archive that could not be written
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_tensors(path: Path) -> dict:
    """Read what `write_tensors` wrote without executing anything in it; InputError if it is something else."""
    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, … for a bad file
        # Not what torch says, which advises to let the file run code.
        why = f"torn, or more than tensors: {type(error).__name__}"
        raise InputError(f"{path}: not a readable {Path(path).name} ({why}); make it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a mapping, found {type(value).__name__}")
    return value


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_prompt(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """Group rows by `prompt_id`, keeping the order of both prompts and rows."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    return groups
