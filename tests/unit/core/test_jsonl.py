"""Rows of JSON lines are read one by one, or at their byte offsets."""

import gzip

import pytest

import prefloop.core.jsonl
from prefloop.core.errors import InputError
from prefloop.core.jsonl import iterate_rows, iterate_with_offsets, read_rows, row_at, write_rows


def test_rows_are_read_at_their_offsets(tmp_path):
    rows = [{"text": "é" * i + "\u2028\n"} for i in range(5)]
    write_rows(tmp_path / "rows.jsonl", rows)
    placed = list(iterate_with_offsets(tmp_path / "rows.jsonl", ["text"]))
    with (tmp_path / "rows.jsonl").open("rb") as file:
        assert [row_at(file, offset) for offset, _ in reversed(placed)] == rows[::-1]


@pytest.mark.parametrize("packed", [False, True])
def test_long_lines_are_not_read_completely(tmp_path, monkeypatch, packed):
    """A compressed row of a few MB can expand to GBs."""
    monkeypatch.setattr(prefloop.core.jsonl, "MAX_LINE", 20)
    rows = '{"a": "aaaaaaaaaa"}\n{"a": "aaaaaaaaaaa"}\n'  # 20 and 21 bytes
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(rows.encode()) if packed else rows.encode())
    found = iterate_rows(path)
    assert next(found) == {"a": "aaaaaaaaaa"}
    with pytest.raises(InputError, match=r"line 2: a line of more than 20 bytes"):
        next(found)


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"\\ud800"', '{"x": [NaN]}', '"\\uDFFF\\uD800"', "9" * 5000])
def test_unwritable_value_raises_with_the_line(tmp_path, value):
    """Every field is checked, except that users' rows may have NaN and lone surrogates in unused fields."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "\\u00e9 NaN \\ud83d\\ude00"}\n{"text": ' + value + "}\n")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2: ") as caught:
        read_rows(path, ["text"])
    assert str(caught.value).isprintable()
    if value[0] != "9":
        assert len(list(iterate_rows(path, of_others=True))) == 2


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("prompt_id", "[]", "text"),
        ("response_id", "1" + "0" * 30, "an integer"),
        ("response_id", "0.5", "an integer"),
        ("response_id", "true", "an integer"),
        ("reward", "false", "a finite number or null"),
        ("logp", "1e999", "a finite number"),
        ("reward", "-1" + "0" * 400, "a finite number or null"),
        ("token_ids", '[1, "2"]', "a list of integers"),
        ("token_ids", "[1, 2.0]", "a list of integers"),
        ("messages", '[{"role": "user"}]', "a list of messages, each with role and content"),
        ("messages", "[]", "a list of messages, each with role and content"),
    ],
)
def test_field_of_wrong_type_raises_with_the_line(tmp_path, field, value, expected):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"{field}": {value}}}\n')
    with pytest.raises(
        InputError, match=rf"rows\.jsonl, line 1: {field} is .*, expected {expected}; make the file"
    ) as e:
        read_rows(path, [field])
    assert len(str(e.value)) < 300


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_unwritable_row_raises_with_line_and_ids(tmp_path, value):
    """No file is written."""
    rows = [{"prompt_id": "a", "response_id": i, "x": value if i else 0} for i in range(2)]
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2, prompt_id a, response_id 1: ") as caught:
        write_rows(tmp_path / "rows.jsonl", rows)
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


def test_text_that_is_not_utf8_raises_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2: unreadable .* expected UTF-8"):
        read_rows(path)
