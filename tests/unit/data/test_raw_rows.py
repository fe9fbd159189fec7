"""Every kind of source gives the same rows, and unreadable sources raise an error with file and line."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from conftest import ROOT
from prefloop.config.source_names import suffix_of
from prefloop.core.errors import InputError
from prefloop.data import raw_rows
from prefloop.data.raw_rows import open_source

PACKAGED = ROOT / "workflow/prompts/instructions.jsonl"
ROWS = [
    {"prompt": "why?\nand, how", "chosen": 'so "it" is', "rejected": "no"},
    {"prompt": "größer 大 😀", "chosen": "a\tb", "rejected": "[1, 2]"},
    {"prompt": "  spaced ", "chosen": "007", "rejected": "null"},
]


def rows_of(source: object, split: str = "train") -> list[dict]:
    return [row for _, row in open_source(str(source), PACKAGED, None, split).rows]


def origins_of(source: object) -> list[str]:
    return [origin for origin, _ in open_source(str(source), PACKAGED, None, "train").rows]


def table(delimiter: str, ending: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ROWS[0], delimiter=delimiter, lineterminator=ending)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def parquet_bytes() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=2)
    return sink.getvalue()


def json_lines(ending: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + ending for row in ROWS).encode()


BOM = b"\xef\xbb\xbf"
CONTENTS = {
    "lines.jsonl": json_lines(),
    "bom.jsonl": BOM + json_lines(),
    "crlf.jsonl": json_lines("\r\n"),
    "lines.json": json_lines(),
    "array.json": json.dumps(ROWS).encode(),
    "indented.json": json.dumps(ROWS, indent=4, ensure_ascii=False).encode(),
    "bom.json": BOM + b"\r\n" + json.dumps(ROWS, indent=1).replace("\n", "\r\n").encode(),
    "table.csv": table(",", "\n"),
    "crlf.csv": BOM + table(",", "\r\n"),
    "table.tsv": table("\t", "\n"),
    "UPPER.CSV": table(",", "\n"),
    "UPPER.JSONL": json_lines(),
    "rows.parquet": parquet_bytes(),
}


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_extension_gives_the_same_rows(name, is_packed, tmp_path):
    path = tmp_path / (name + (".GZ" if name.startswith("UPPER") else ".gz") * is_packed)
    path.write_bytes(gzip.compress(CONTENTS[name]) if is_packed else CONTENTS[name])
    assert rows_of(path) == ROWS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lines.jsonl", ["line 1", "line 2", "line 3"]),
        ("indented.json", ["line 2", "line 7", "line 12"]),
        ("table.csv", ["line 2", "line 4", "line 5"]),  # a cell of the first row contains a line break
        ("rows.parquet", ["row 0", "row 1", "row 2"]),
    ],
)
def test_rows_have_their_origin(name, expected, tmp_path):
    (tmp_path / name).write_bytes(CONTENTS[name])
    assert origins_of(tmp_path / name) == [f"{tmp_path / name}, {place}" for place in expected]


def test_columns_without_a_name_are_ignored(tmp_path):
    """pandas writes its index as such a column."""
    (tmp_path / "a.csv").write_text(",prompt,\n0,a,x\n1,b,y\n")
    assert rows_of(tmp_path / "a.csv") == [{"prompt": "a"}, {"prompt": "b"}]


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_json_array_is_read_in_chunks(size, tmp_path, monkeypatch):
    monkeypatch.setattr(raw_rows, "CHUNK", size)
    for name in ("array.json", "indented.json", "bom.json", "lines.json"):
        (tmp_path / name).write_bytes(CONTENTS[name])
        assert rows_of(tmp_path / name) == ROWS
    assert origins_of(tmp_path / "indented.json")[2].endswith("line 12")
    (tmp_path / "empty.json").write_text(" [ ] ")
    assert rows_of(tmp_path / "empty.json") == []


def test_table_cells_may_be_long_or_contain_messages(tmp_path):
    """Cells may exceed Python's default limit. A JSON list of objects is parsed, and any other text stays text."""
    messages = [{"role": "user", "content": "Hi"}]
    cells = ["x" * 200_000, json.dumps(messages), "[{not JSON", "[1]", "12", json.dumps(messages, indent=1)]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt"], *([cell] for cell in cells)])
    assert [row["prompt"] for row in rows_of(tmp_path / "rows.csv")] == [cells[0], messages, *cells[2:5], messages]


def test_folders_written_by_save_to_disk_are_read(tmp_path):
    from datasets import Dataset, DatasetDict

    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    DatasetDict(train=Dataset.from_list(ROWS[:1]), test=Dataset.from_list(ROWS[1:])).save_to_disk(tmp_path / "several")
    assert rows_of(tmp_path / "one") == ROWS
    assert rows_of(tmp_path / "several", "test") == ROWS[1:]
    with pytest.raises(InputError, match=r"several: no split validation; found train, test; set prompts.split"):
        rows_of(tmp_path / "several", "validation")
    (tmp_path / "one/state.json").write_text("{")
    with pytest.raises(InputError, match="one: not a folder written by save_to_disk"):
        rows_of(tmp_path / "one")


def test_functions_yield_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_data.py").write_text(
        "def rows():\n    for n in range(3):\n        yield {'prompt': f'number {n}'}\n\n"
        "def failing():\n    yield {'prompt': 'a'}\n    raise KeyError('x')\n\n"
        "def texts():\n    return ['a']\n\ndef number():\n    return 3\n"
    )
    assert [row["prompt"] for row in rows_of("my_data.py:rows")] == ["number 0", "number 1", "number 2"]
    assert origins_of("my_data:rows")[2] == "my_data:rows, row 2"
    for name, message in [
        ("failing", r"my_data.py:failing failed after 1 row\(s\) \(KeyError: 'x', in my_data.py, line 7\)"),
        ("texts", "my_data.py:texts, row 0: str found, expected a mapping of columns"),
        ("number", r"my_data.py:number failed after 0 row\(s\) \(TypeError"),
    ]:
        with pytest.raises(InputError, match=message):
            rows_of(f"my_data.py:{name}")


def test_packaged_prompts_have_lines():
    assert next(open_source("packaged", PACKAGED, None, "train").rows)[0].endswith("instructions.jsonl, line 1")


BAD = {
    "torn.jsonl": (b'{"prompt": "a"}\n{"prompt": "b', "torn.jsonl, line 2: not JSON.*torn"),
    "empty.jsonl": (b"", "empty.jsonl: empty file"),
    "digits.jsonl": (
        b'{"a": 1}\n{"meta": ' + b"9" * 5000 + b"}\n",
        "digits.jsonl, line 2: an integer with too many",
    ),
    "deep.jsonl": (b'{"meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "deep.jsonl, line 1: nested too deeply"),
    "latin.jsonl": ('{"prompt": "café"}\n'.encode("latin-1"), "latin.jsonl, line 1: unreadable"),
    "torn.json": (b'[{"prompt": "a"},\n {"prompt": "b"', "torn.json, line 2: not JSON.*torn"),
    "open.json": (b'[{"prompt": "a"},\n', "open.json, line 2: not JSON.*torn"),
    "list.json": (b'[\n["a"]]', "list.json, line 2: list found, expected an array of objects"),
    "two.json": (b'[{"a": 1}]\n[{"a": 2}]', "two.json, line 2: text after the end of the array"),
    "comma.json": (b'[{"a": 1}\n{"a": 2}]', "comma.json, line 2: no comma"),
    "digits.json": (b'[{"a":\n' + b"9" * 5000 + b"}]", "digits.json, line 1: an integer with too many digits"),
    "deep.json": (b"[" + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]", "deep.json, line 1: nested too deeply"),
    "empty.json": (b"", "empty.json: empty file"),
    "latin.json": (b'[{"a": "\xe9"}]', "latin.json: unreadable.*expected UTF-8"),
    "empty.csv": (b"", "empty.csv: empty file, expected a table with a header"),
    "header.csv": (b"prompt,prompt\na,b\n", "header.csv, line 1: columns prompt, prompt; expected distinct names"),
    "unnamed.csv": (b",\na,b\n", "unnamed.csv, line 1: columns , ; expected distinct names"),
    "cells.csv": (b"prompt,chosen\na,b\nc\n", "cells.csv, line 3: 1 cells, the header has 2"),
    "python.csv": (
        b"id,prompt\n1,\"[{'role': 'user', 'content': 'Hi'}]\"\n",
        "python.csv, line 2, column prompt: messages that are not JSON; write the column with json.dumps",
    ),
    "quote.csv": (b'prompt\na\n"b\n', "quote.csv, line 3: not a table"),
    "latin.csv": (b"prompt\na\n\xe9\n", "latin.csv, line 3: not UTF-8 .*; save it as UTF-8"),
    "rows.csv.gz": (b"prompt\na\n", "rows.csv.gz: unreadable.*gzip"),
    "rows.parquet": (parquet_bytes()[:-9], "rows.parquet: not a Parquet file"),
    "rows.parquet.gz": (gzip.compress(b"PAR1"), "rows.parquet.gz: not a Parquet file"),
    "rows.txt": (b"a", "prompts.source: .*rows.txt: expected packaged, a .jsonl"),
}


@pytest.mark.parametrize("name", BAD)
def test_unreadable_files_raise_with_one_line(name, tmp_path):
    """Huge integers and deep nesting do not cause a traceback."""
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        rows_of(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", raw_rows.READERS)
def test_missing_files_raise(suffix, tmp_path):
    for packed in ("", ".gz"):
        assert suffix_of(f"a.b/c{suffix}{packed}") == suffix
        with pytest.raises(InputError, match=rf"absent{suffix}{packed}: no such file, expected"):
            rows_of(tmp_path / f"absent{suffix}{packed}")


def test_other_extensions_are_not_recognized():
    assert [suffix_of(name) for name in ("a.txt", "jsonl", "a.gz", "folder/csv", "a.csv.bz2")] == [""] * 5
