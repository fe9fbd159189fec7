"""Random mutations of prompt rows and files: the result is readable by the next stage, or a one-line error.

CI runs the same examples each time. For more, random examples: FUZZ_EXAMPLES=20000 pytest tests/unit -k fuzz
"""

import csv
import gzip
import io
import json
import runpy
from io import BytesIO
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

import tiny
from conftest import ROOT
from mutations import as_json, fuzzing, is_short_line, mutated, torn
from prefloop.config.source_names import SUFFIXES
from prefloop.core.errors import InputError
from prefloop.core.jsonl import row_at, write_rows
from prefloop.data.formats import FORMATS
from prefloop.data.near_duplicates import EvalNGrams
from prefloop.data.prompt_sets import NearDuplicates, TrainingFlags, read_prompt_set

FORMAT_TESTS = runpy.run_path(str(ROOT / "tests/unit/data/test_formats.py"))
ROWS = {word: raw for word, (raw, *_) in FORMAT_TESTS["ROWS"].items()}
# Variants of format `columns` that the other rows do not have.
TURNS = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "why?"}, {"type": "text", "text": " now"}]}]
MORE_ROWS = [
    ("columns", {"prompt_id": "x", "prompt": TURNS[:1], "chosen": "so", "rejected": "no", "meta": {"n": [1, 2.5]}}),
    ("columns", {"chosen": [*TURNS, *TURNS], "rejected": [*TURNS, TURNS[0], {"role": "assistant", "content": "no"}]}),
    ("columns", {"prompt": "why?", "chosen": [*PARTS, TURNS[1]], "rejected": [*PARTS, TURNS[1]]}),
]
EXAMPLES = [*ROWS.items(), *MORE_ROWS]
TEMPLATE = [{"role": "system", "content": "You are {meta.name}."}, {"role": "user", "content": "{prompt} {chosen}"}]
PLAIN = [{"prompt": f"question {number}", "chosen": "so, so", "rejected": "no"} for number in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@pytest.fixture(scope="module")
def words():
    return tiny.tokenizer()


def prepare(path: Path, words, **settings) -> None:
    """Process a file as prepare_prompts does. An InputError must be one line."""
    file = BytesIO()
    flags = TrainingFlags(source=str(path), max_prompt_tokens=50, max_response_tokens=50, **settings)
    try:
        prompts = read_prompt_set(flags, path, words, file)
        drawn = prompts.draw(None, 0)
        near = NearDuplicates(EvalNGrams(row_at(file, offset) for offset in drawn[:1]), False)
        write_rows(path.with_name("out.jsonl"), near.pass_on(file, drawn))
        assert json.dumps(prompts.records("train"), allow_nan=False)
    except InputError as error:
        assert is_short_line(str(error)), str(error)


@given(data=st.data())
@fuzzing(1000)
def test_fuzzed_rows(folder, words, data):
    word, row = data.draw(st.sampled_from(EXAMPLES))
    path = folder / data.draw(st.sampled_from(["rows.jsonl", "rows.json"]))
    first, second = as_json(row), as_json(data.draw(mutated(row)))
    text = f"[{first},\n{second}]" if path.suffix == ".json" else f"{first}\n{second}\n"
    path.write_text(text, encoding="utf-8")
    template = json.dumps(TEMPLATE) if word == "columns" and data.draw(st.booleans()) else None
    prepare(path, words, format=word, messages_template=template, merge_roles=data.draw(st.booleans()))


@given(data=st.data())
@fuzzing(600)
def test_fuzzed_files(folder, words, data):
    """Files of every extension are cut, repeated, or filled with odd characters."""
    word, row = data.draw(st.sampled_from(EXAMPLES))
    suffix = data.draw(st.sampled_from([*SUFFIXES, *(f"{suffix}.gz" for suffix in SUFFIXES)]))
    plain = suffix.removesuffix(".gz")
    if plain == ".parquet":
        packed = bytearray(parquet_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
        content = bytes(packed[: data.draw(st.integers(0, len(packed)))] if data.draw(st.booleans()) else packed)
        word = "columns"
    else:
        valid = f"[{as_json(row)},\n{as_json(row)}]" if plain == ".json" else f"{as_json(row)}\n{as_json(row)}\n"
        if plain in (".csv", ".tsv"):
            word, valid = "columns", table_text("," if plain == ".csv" else "\t")
        encoding = data.draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
        content = data.draw(torn(valid)).encode(encoding, errors="ignore")
    if suffix.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
        content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    path = folder / f"torn{suffix}"
    path.write_bytes(content)
    prepare(path, words, format=word)


def parquet_bytes() -> bytes:
    """Return a Parquet file with plain rows."""
    file = BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(PLAIN), file)
    return file.getvalue()


def table_text(delimiter: str) -> str:
    """Return a table with plain rows as text."""
    file = io.StringIO()
    table = csv.DictWriter(file, PLAIN[0], delimiter=delimiter)
    table.writeheader()
    table.writerows(PLAIN)
    return file.getvalue()


@given(template=mutated(TEMPLATE), text=torn(json.dumps(TEMPLATE)), row=mutated({"prompt": "a", "meta": {"name": 1}}))
@fuzzing(200)
def test_fuzzed_templates(folder, words, template, text, row):
    path = folder / "filled.jsonl"
    path.write_text(as_json(row) + "\n", encoding="utf-8")
    for given_text in (as_json(template), text):
        prepare(path, words, messages_template=given_text)


def test_every_format_is_mutated():
    assert {word for word, _ in EXAMPLES} == set(FORMATS)
