"""Reads raw rows of prompt sources: files by extension, folders of save_to_disk, hub data sets and users' functions.

No reader holds more than a part of its source in memory.
"""

import csv
import gzip
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from prefloop.config.source_names import HUB, HUB_SOURCE, SOURCE_FORM, is_rows_function, suffix_of
from prefloop.core.errors import InputError, first_line
from prefloop.core.jsonl import iterate_rows, unreadable_json
from prefloop.core.own_functions import describe_exception, load_own

if TYPE_CHECKING:
    import pyarrow

PART = 1000  # rows in memory at once
CHUNK = 1 << 20  # characters of a JSON array read at once
LONGEST = 1 << 28  # characters of one row of a JSON array or one cell of a table; a longer one indicates a torn file

RawRows = Iterator[tuple[str, dict]]  # (origin, raw row); the origin names file and line for error messages


class OpenedSource(NamedTuple):
    """A source that is being read."""

    rows: RawRows
    """(origin, raw row). The origin names file and line for error messages."""
    commit: str | None = None
    """The commit of a hub data set. Its revision may be only a name, such as a branch."""


def open_source(source: str | None, packaged: Path, subset: str | None, split: str) -> OpenedSource:
    """Open a source of prompts.

    Args:
        source: The value of `prompts.source`.
        packaged: The file of the packaged prompts.
        subset: Configuration of a hub data set; None means its default.
        split: Split of a hub data set or of a folder of save_to_disk.

    Raises:
        InputError: The source cannot be read. For files, it is raised when rows are read.
    """
    if source is None:
        raise InputError(f"prompts.source: missing; name {SOURCE_FORM}")
    if source.startswith(HUB):
        return open_hub(source, subset, split)
    if is_rows_function(source):
        return OpenedSource(call_function(source))
    path = packaged if source == "packaged" else Path(source)
    if path.is_dir() and not suffix_of(source):
        return OpenedSource(read_folder(path, split))
    suffix = ".jsonl" if source == "packaged" else suffix_of(source)
    if suffix not in READERS:
        raise InputError(f"prompts.source: {source}: expected {SOURCE_FORM}")
    return OpenedSource(READERS[suffix](path))


def read_lines(path: Path) -> RawRows:
    """Yield the rows of a JSON Lines file."""
    for line, row in enumerate(iterate_rows(path, of_others=True), start=1):
        yield f"{path}, line {line}", row


def read_json_rows(path: Path) -> RawRows:
    """Return the rows of a .json file, which is one array or JSON Lines."""
    with readable(path, "a JSON array or JSON lines"), text_file(path) as file:
        start = file.read(CHUNK)
        while start.isspace():
            start = file.read(CHUNK)
    return read_array(path) if start.lstrip().startswith("[") else read_lines(path)


def read_array(path: Path) -> RawRows:
    """Yield the rows of a JSON array, which is parsed piece by piece."""
    decoder, text, position, line = json.JSONDecoder(), "", 0, 1
    with readable(path, "a JSON array"), text_file(path) as file:

        def next_character() -> str:
            """Return the next character that is not white space, without consuming it; empty at the end."""
            nonlocal text, position, line
            while True:
                while position < len(text):
                    if not text[position].isspace():
                        return text[position]
                    line += text[position] == "\n"
                    position += 1
                text, position = file.read(CHUNK), 0
                if not text:
                    return ""

        def next_row() -> dict:
            """Consume and return the row that begins here. As much text is read as needed."""
            nonlocal text, position, line
            try:
                row, end = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                more = file.read(max(CHUNK, len(text))) if len(text) - position < LONGEST else ""
                if not more:
                    torn = "; the file may be torn" if error.pos >= len(text.rstrip()) else ""
                    raise InputError(
                        f"{path}, line {line}: not JSON ({error.msg}{torn}); expected objects in an array"
                    ) from error
                text, position = text[position:] + more, 0
                return next_row()
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {line}: {unreadable_json(error)}") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {line}: {type(row).__name__} found, expected an array of objects")
            line, position = line + text.count("\n", position, end), end
            return row

        next_character()
        position += 1  # the bracket
        following = next_character()
        while following != "]":
            yield f"{path}, line {line}", next_row()
            following = next_character()
            if following == ",":
                position += 1
                following = next_character()
            elif following != "]":
                raise InputError(f"{path}, line {line}: no comma between two objects of the array")
        position += 1
        if next_character():
            raise InputError(f"{path}, line {line}: text after the end of the array; write one array, or JSON lines")


def read_csv(path: Path) -> RawRows:
    """Return the rows of a table of comma-separated values."""
    return read_table(path, ",")


def read_tsv(path: Path) -> RawRows:
    """Return the rows of a table of tab-separated values."""
    return read_table(path, "\t")


def read_table(path: Path, delimiter: str) -> RawRows:
    """Yield the rows of a table whose first row names the columns. All cells are text, except messages as JSON.

    Columns without a name are ignored.
    """
    csv.field_size_limit(LONGEST)
    with readable(path, "a table with a header"):
        table = csv.reader(decoded_lines(path), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            line = table.line_num + 1
            try:
                cells = next(table, None)
            except csv.Error as error:
                raise InputError(
                    f"{path}, line {line}: not a table ({error}); quote cells as spreadsheets do"
                ) from error
            if cells is None:
                break
            if header is None:
                header = checked_header(cells, path)
            elif cells:  # a blank line has none
                if len(cells) != len(header):
                    raise InputError(f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}")
                named = ((name, cell) for name, cell in zip(header, cells, strict=True) if name)
                origin = f"{path}, line {line}"
                yield origin, {name: parse_cell(cell, f"{origin}, column {name}") for name, cell in named}
    if header is None:
        raise InputError(f"{path}: empty file, expected a table with a header")


def checked_header(cells: list[str], path: Path) -> list[str]:
    """Return the names of a table's columns, empty for columns without a name, such as the index of pandas.

    Raises:
        InputError: A name occurs twice, or no column has one.
    """
    names = [name for name in cells if name]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"{path}, line 1: columns {', '.join(cells) or '(none)'}; expected distinct names in the header"
        )
    return cells


def parse_cell(text: str, origin: str) -> Any:
    """Return a cell's text, or its messages if it is a JSON list of objects.

    Raises:
        InputError: The cell has messages as Python writes them, which is not JSON.
    """
    if not re.match(r"\s*\[\s*\{", text):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if "'role':" in text and "'content':" in text:
            raise InputError(f"{origin}: messages that are not JSON; write the column with json.dumps") from None
        return text
    return value if all(isinstance(item, dict) for item in value) else text


def read_parquet(path: Path) -> RawRows:
    """Yield the rows of a Parquet file. A .gz file is first decompressed to a temporary file."""
    import pyarrow
    from pyarrow import parquet

    with readable(path, "Parquet"), binary_file(path) as packed, TemporaryFile() as unpacked:
        if path.suffix.lower() == ".gz":
            shutil.copyfileobj(packed, unpacked)
            packed = unpacked
        try:
            batches = parquet.ParquetFile(packed, pre_buffer=False).iter_batches(PART, use_threads=False)
            yield from rows_of_batches(batches, str(path))
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a Parquet file that pyarrow can read ({first_line(error)})") from error


def rows_of_batches(batches: "Iterable[pyarrow.RecordBatch | pyarrow.Table]", name: str) -> RawRows:
    """Yield the rows of Arrow batches, numbered from 0."""
    index = 0
    for batch in batches:
        for row in batch.to_pylist():
            yield f"{name}, row {index}", row
            index += 1


def read_folder(path: Path, split: str) -> RawRows:
    """Return the rows of a folder that `datasets` wrote with save_to_disk, or of one split if it has several."""
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except Exception as error:  # the library raises many types for a damaged folder
        raise InputError(f"{path}: not a folder written by save_to_disk ({first_line(error)})") from error
    if isinstance(data, DatasetDict):
        if split not in data:
            raise InputError(f"{path}: no split {split}; found {', '.join(data)}; set prompts.split")
        data = data[split]
    return rows_of_batches(data.with_format("arrow").iter(PART), str(path))


def open_hub(source: str, subset: str | None, split: str) -> OpenedSource:
    """Open a data set on the Hugging Face hub, `hub:owner/name` or `hub:owner/name@revision`, at a fixed commit."""
    from datasets import load_dataset_builder

    match = HUB_SOURCE.fullmatch(source)
    if match is None:
        raise InputError(f"prompts.source: {source}: expected hub:owner/name or hub:owner/name@revision")
    try:
        builder = load_dataset_builder(match["name"], subset, revision=match["revision"])
        builder.download_and_prepare()
        data = builder.as_dataset(split)
    except Exception as error:  # the client raises many types, for example when offline or for an unknown split
        raise InputError(f"prompts.source: {source} could not be loaded ({first_line(error)})") from error
    return OpenedSource(rows_of_batches(data.with_format("arrow").iter(PART), source), builder.hash)


def call_function(function: str) -> RawRows:
    """Yield the rows that a function of the user returns or yields."""
    call = load_own(function, "prompts.source")
    count = 0
    try:
        for index, row in enumerate(call()):
            count = index + 1
            if not isinstance(row, dict):
                raise InputError(f"{function}, row {index}: {type(row).__name__} found, expected a mapping of columns")
            yield f"{function}, row {index}", row
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's function does
        raise InputError(
            f"prompts.source: {function} failed after {count} row(s) ({describe_exception(error)})"
        ) from error


@contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """Within the context, raise an InputError for a missing, torn or incorrectly encoded file."""
    if not path.is_file():
        raise InputError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}, expected {expected}")
    try:
        yield
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: unreadable ({error}); expected UTF-8, or gzip if the name ends in .gz") from error


def binary_file(path: Path) -> IO[bytes]:
    """Open a file for reading as bytes, decompressed if its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def text_file(path: Path) -> IO[str]:
    """Open a file for reading as text, without its byte order mark, decompressed if its name ends in .gz."""
    return (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig")


def decoded_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file with their ends, without its byte order mark. Raise InputError if one is not UTF-8."""
    with binary_file(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {number}: not UTF-8 ({error}); save it as UTF-8") from error


READERS: dict[str, Callable[[Path], RawRows]] = {
    ".jsonl": read_lines,
    ".json": read_json_rows,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
