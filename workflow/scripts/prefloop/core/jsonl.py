"""JSON Lines, the format of files between stages: one object per line. Errors name the file and the line."""

import gzip
import json
import zlib
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from prefloop.core.errors import InputError
from prefloop.core.files import atomic_write
from prefloop.core.row_fields import wrong_field

MAX_LINE = 1 << 28  # bytes; rows of the largest steps have a few MB


def write_rows(path: Path, rows: Iterable[dict]) -> int:
    """Write one JSON object per line and return their number.

    Raises:
        InputError: A row has NaN, infinity, half a surrogate pair or very deep nesting, which readers cannot read.
    """
    count = 0
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):
            try:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            except (ValueError, RecursionError):
                ids = [f", {name} {row[name]}" for name in ("prompt_id", "response_id") if name in row]
                check_writable(row, f"{path}, line {count}{''.join(ids)}")
                raise
    return count


def read_rows(path: Path, required: Iterable[str] = ()) -> list[dict]:
    """Read all rows of a JSON Lines file (plain or .gz). Each row must have the `required` fields.

    Raises:
        InputError: The file is missing, empty or truncated, or a row is invalid: a required field is missing or is not
            of the kind in `row_fields.KINDS`, or any field is NaN or has a text that is not Unicode.
    """
    return list(iterate_rows(path, required))


def iterate_rows(
    path: Path, required: Iterable[str] = (), *, may_be_empty: bool = False, of_others: bool = False
) -> Iterator[dict]:
    """Read the rows of a file like `read_rows`, but one at a time.

    Args:
        path: The file.
        required: Fields that each row must have.
        may_be_empty: Whether an empty file is valid.
        of_others: Whether other software wrote the file. Its rows may then contain NaN and other values that
            `write_rows` refuses, because most fields are not used.
    """
    rows = iterate_with_offsets(path, required, may_be_empty=may_be_empty, of_others=of_others)
    return (row for _, row in rows)


def iterate_with_offsets(
    path: Path, required: Iterable[str] = (), *, may_be_empty: bool = False, of_others: bool = False
) -> Iterator[tuple[int, dict]]:
    """Yield the rows of `iterate_rows`, each with the byte offset of its line, at which `row_at` can read it again.

    Raises:
        InputError: As `read_rows`, but only when the rows are read.
    """
    path, required, number, offset = Path(path), tuple(required), 0, 0
    if not path.is_file():
        raise InputError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}, expected JSON lines")
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
                if len(line) > MAX_LINE:
                    problem = f"a line of more than {MAX_LINE} bytes, which fills the memory; expected one row per line"
                    raise InputError(f"{path}, line {number}: {problem}")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield offset, parse_row(text, required, f"{path}, line {number}", of_others=of_others)
                offset += len(line)
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            location = f"line {number}" if isinstance(error, UnicodeDecodeError) else f"after line {number}"
            raise InputError(
                f"{path}, {location}: unreadable ({error}); expected UTF-8, or gzip if the name ends in .gz"
            ) from error
    if number == 0 and not may_be_empty:
        raise InputError(f"{path}: empty file, expected one JSON object per line")


def row_at(file: BinaryIO, offset: int) -> dict:
    """Read the row at a byte offset of a plain JSON Lines file that `iterate_with_offsets` has checked."""
    file.seek(offset)
    return json.loads(file.readline())


class NotFiniteError(ValueError):
    """A row has NaN or infinity."""


def refuse_constant(word: str) -> None:
    """Raise NotFiniteError for NaN, Infinity or -Infinity, which Python's parser accepts but JSON does not allow."""
    raise NotFiniteError(f"{word}, which is not JSON; expected finite numbers")


STRICT = json.JSONDecoder(parse_constant=refuse_constant)
LENIENT = json.JSONDecoder()


def parse_row(line: str, required: Iterable[str], location: str, *, of_others: bool = False) -> dict:
    """Parse one line and check its `required` fields. Messages of InputErrors start with `location`."""
    try:
        row = (LENIENT if of_others else STRICT).decode(line)
    except json.JSONDecodeError as error:
        if not line.strip():
            raise InputError(f"{location}: an empty line, expected one JSON object per line; delete it") from error
        torn = "" if line.endswith("\n") else ", and the line has no end: the file may be torn"
        problem = f"not JSON ({error.msg} at column {error.colno}){torn}"
        raise InputError(f"{location}: {problem}; expected one JSON object per line") from error
    except NotFiniteError as error:
        raise InputError(f"{location}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{location}: {unreadable_json(error)}") from error
    if not of_others and "\\" in line and "\\u" in line:  # only escapes can be surrogates; the first test alone is fast
        check_writable(row, location)
    if not isinstance(row, dict):
        raise InputError(f"{location}: {type(row).__name__} found, expected one JSON object per line")
    missing = [name for name in required if name not in row]
    if missing:
        raise InputError(f"{location}: missing {', '.join(missing)}; found {', '.join(row) or 'no fields'}")
    check_fields(row, required, location)
    return row


def check_fields(row: dict, names: Iterable[str], location: str) -> None:
    """Raise an InputError that starts with `location` if one of these fields of a row has an invalid value."""
    if wrong := wrong_field(row, names):
        name, expected = wrong
        raise InputError(f"{location}: {name} is {describe(row[name])}, expected {expected}; make the file again")


def unreadable_json(error: ValueError | RecursionError) -> str:
    """Return why Python cannot read a valid JSON text: an integer of thousands of digits, or deep nesting."""
    if isinstance(error, RecursionError):
        return "nested too deeply to be read; expected a few levels"
    return f"an integer with too many digits ({error}); write it as text"


def describe(value: object) -> str:
    """Return a value as JSON of at most 60 characters, for messages."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that cannot be written as JSON"
    return text if len(text) <= 60 else text[:57] + "..."


def check_writable(row: dict, origin: str) -> dict:
    """Return the row if `write_rows` can write it and readers can read it.

    Raises:
        InputError: The row cannot be written or read. The message starts with `origin`.
    """
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        problem = f"half a surrogate pair, {error.object[error.start]!a}, which UTF-8 cannot encode; delete it"
    except RecursionError:
        problem = "values nested too deeply to be written as JSON; expected a few levels"
    except (TypeError, ValueError) as error:  # a value of another type, NaN, infinity or a huge integer
        problem = f"a value that JSON does not have ({error}); expected text, finite numbers, lists and mappings"
    else:
        return row
    raise InputError(f"{origin}: {problem}")


def check_known(rows: Iterable[dict], known: Container[str], prompts: Path, answers: Path) -> None:
    """Raise an InputError if a row of the file `answers` has a prompt_id that is not in the file `prompts`."""
    unknown = next((row["prompt_id"] for row in rows if row["prompt_id"] not in known), None)
    if unknown is not None:
        raise InputError(f"{prompts}: no prompt {unknown}, which {answers} answers; make the answers again")


def has_pair(prompt: dict) -> bool:
    """Whether a row of prompts has a chosen and a rejected response."""
    return "chosen" in prompt and "rejected" in prompt


def by_prompt(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """Group rows by `prompt_id`. Prompts and rows keep their order."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    return groups
