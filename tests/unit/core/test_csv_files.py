"""CSV tables have finite numbers or empty cells, and no cell that a spreadsheet would run as a formula."""

import ast
import csv
import math

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT
from prefloop.core.csv_files import csv_rows, plain_cell, read_frame, safe_cell, write_cells, write_frame
from prefloop.core.errors import InputError

FORMULAS = ["=1+1", "+cmd|'/C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "=1,2\n3", '="a"']  # noqa: RUF001
PLAIN = ["", "a=b", "it's", "'quoted'", "1.5", "-1.5", "+3", "-1e-05", " =1", "a\nb", "größe"]


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN, "'=1", "''-x"])
def test_text_is_read_as_it_was_written(tmp_path, text):
    """A cell with an apostrophe before a formula gets a second one, so that readers can remove exactly one."""
    expected = text.replace("\r", "\n")
    write_frame(tmp_path / "a.csv", pd.DataFrame({"prompt_id": [text, "b"], "cluster": [0, 1]}))
    assert read_frame(tmp_path / "a.csv").to_dict("list") == {"prompt_id": [expected, "b"], "cluster": [0, 1]}
    assert [row["prompt_id"] for row in csv_rows(tmp_path / "a.csv")] == [expected, "b"]
    assert plain_cell(safe_cell(text)) == expected


def test_no_formula_is_written(tmp_path):
    """Covers cells and headers, both writers and all column types. Carriage returns do not end a row."""
    mixed = pd.DataFrame({"text": FORMULAS, "mixed": [1, None, *FORMULAS[2:]], "=x": FORMULAS})
    mixed["kind"] = pd.Categorical(FORMULAS)
    write_frame(tmp_path / "a.csv", mixed)
    write_cells(tmp_path / "b.csv", ["=x", "y"], [[text, f"a\r{text}"] for text in FORMULAS])
    for name in ("a", "b"):
        with (tmp_path / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert len(rows) == 1 + len(FORMULAS)
        cells = [cell for row in rows for cell in row]
        assert [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "＝")] == []  # noqa: RUF001
        assert not any("\r" in cell for cell in cells)


def test_numbers_are_finite_or_empty(tmp_path):
    """Covers columns of floats and of objects. All other bytes are written as by pandas."""
    data = pd.DataFrame(
        {"a": [0.1234567, -math.inf, math.nan, math.inf], "b": [-1, 2, 3, 4], "c": ["x", "y", "z", "-3"]}
    )
    data["d"] = pd.Series([-5, math.inf, np.float64("nan"), None], dtype=object)
    data["e"] = [True, False, True, False]
    write_frame(tmp_path / "a.csv", data)
    expected = "a,b,c,d,e\n0.123457,-1,x,-5,True\n,2,y,,False\n,3,z,,True\n,4,-3,,False\n"
    assert (tmp_path / "a.csv").read_text() == expected
    assert data["a"].iloc[3] == math.inf, "the caller's table is not changed"
    write_cells(tmp_path / "b.csv", ["n"], [[math.inf], [-0.5], [np.float64("nan")]])
    assert (tmp_path / "b.csv").read_text() == 'n\n""\n-0.5\n""\n'


def test_broken_tables_raise_with_one_line(tmp_path):
    path = tmp_path / "a.csv"
    for content in (b"", b'a,b\n1,2\n"3', b"a\n\xff\n", b"a\n1,2,3\n1\n1,2,3,4\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.csv: not a CSV table \("):
            read_frame(path)
    path.write_bytes(b"a\n\xff\n")
    with pytest.raises(InputError, match=r"a\.csv: not a CSV table \("):
        list(csv_rows(path))
    path.unlink()
    for read in (read_frame, lambda path: list(csv_rows(path))):
        with pytest.raises(InputError, match=r"a\.csv: no such file"):
            read(path)


def test_only_csv_files_reads_and_writes_csv():
    """data/raw_rows.py is the exception: it reads the user's data."""
    found = set()
    for path in (ROOT / "workflow").rglob("*.py"):
        names = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        if any(name.endswith(("to_csv", "read_csv")) or name.startswith("csv.") for name in names):
            found.add(path.name)
    assert found == {"csv_files.py", "raw_rows.py"}
