"""CSV tables that are safe to open in spreadsheets: numbers are finite or empty, and text cannot run as a formula.

Only the functions that need pandas import it, so that stages without tables start faster.
"""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.core.errors import InputError, refused
from prefloop.core.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

# Text that a spreadsheet would run as a formula, after any number of the apostrophes that `safe_cell` adds.
FORMULA = re.compile(r"'*[=+\-@\t\n＝＋－＠]")  # noqa: RUF001 (wide forms, which some spreadsheets accept)
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def safe_cell(value: Any) -> Any:
    """Return a cell to write: None for NaN and infinity, and text that could be a formula with an apostrophe before it.

    Carriage returns become line feeds, because Python's csv does not quote them and readers would end the row there.
    """
    if isinstance(value, str):
        text = value.replace("\r\n", "\n").replace("\r", "\n")
        return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_cell(value: Any) -> Any:
    """Return a cell without the apostrophe that `safe_cell` adds."""
    return value[1:] if isinstance(value, str) and value[:1] == "'" and FORMULA.match(value) else value


def write_cells(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically, compressed if its name ends in .gz. The same rows always give the same bytes."""
    cells = ([safe_cell(cell) for cell in row] for row in (header, *rows))
    if Path(path).suffix == ".gz":
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(cells)
        with atomic_write(path) as partial:
            partial.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
        return
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(cells)


def write_frame(path: Path, data: "pd.DataFrame") -> None:
    """Write a data frame atomically, without its index and with six significant digits per float."""
    import numpy as np
    import pandas as pd

    table = data.rename(columns=safe_cell)
    for index in range(table.shape[1]):
        column = table.iloc[:, index]
        if pd.api.types.is_float_dtype(column.dtype):
            table.isetitem(index, column.replace([np.inf, -np.inf], np.nan).to_numpy())
        elif not pd.api.types.is_numeric_dtype(column.dtype):
            table.isetitem(index, pd.Series([safe_cell(cell) for cell in column], dtype=object).to_numpy())
    with atomic_write(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g")


def read_frame(path: Path) -> "pd.DataFrame":
    """Read a table. Empty cells become NaN, and prompt ids are read as text.

    Raises:
        InputError: The file is missing or is not a table.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a table")
    with refused(f"{path}: not a CSV table"):
        data = pd.read_csv(path, dtype={"prompt_id": str}, keep_default_na=False, na_values=[""])
    if "prompt_id" in data:
        data["prompt_id"] = data["prompt_id"].fillna("")
    text = data.select_dtypes(exclude="number").columns
    return data.assign(**{name: data[name].map(plain_cell) for name in text}).rename(columns=plain_cell)


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table (plain or .gz), with all cells as text.

    Raises:
        InputError: The file is missing or is not a table.
    """
    path = Path(path)
    try:
        opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield {plain_cell(name): plain_cell(cell) for name, cell in row.items()}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: not a CSV table ({error}); recreate it") from error
