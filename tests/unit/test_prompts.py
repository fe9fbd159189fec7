"""Every form of prompt source comes out as the same rows, and bad rows are named."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, SHARED_DATA
from prefloop.prompts import Columns, read_source, split_rows, to_prompt, unique
from prefloop.rows import InputError, read_rows

PACKAGED = ROOT / "workflow/prompts/instructions.jsonl"
HH = {
    "chosen": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant: because",
    "rejected": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant: no",
}
TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "why?"},
]


def prompt(row: dict) -> dict:
    return to_prompt(row, Columns(), "file, line 1")


def test_packaged_prompts_are_many_and_varied():
    rows = read_rows(PACKAGED, ["prompt_id", "prompt", "meta"])
    assert len(rows) >= 600
    assert len({row["meta"]["family"] for row in rows}) >= 12
    assert len({row["prompt"] for row in rows}) == len(rows)


def test_text_prompt():
    row = prompt({"prompt_id": "x", "prompt": "why?"})
    assert row == {"prompt_id": "x", "messages": [{"role": "user", "content": "why?"}]}


def test_conversational_prompt_with_a_system_message():
    messages = [{"role": "system", "content": "be kind"}, *TURNS]
    assert prompt({"prompt": messages})["messages"] == messages


def test_hh_transcript_is_split_at_the_last_assistant_turn():
    row = prompt(HH)
    assert row["messages"] == TURNS
    assert (row["chosen"], row["rejected"]) == ("because", "no")


def test_conversations_that_end_with_the_response():
    row = prompt({side: [*TURNS, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")})
    assert row["messages"] == TURNS
    assert (row["chosen"], row["rejected"]) == ("chosen", "rejected")


def test_transcripts_that_part_earlier_are_no_pair():
    row = prompt({"chosen": HH["chosen"], "rejected": HH["rejected"].replace("hi", "ho")})
    assert row["messages"] == TURNS
    assert "chosen" not in row


def test_a_transcript_with_two_answers_in_a_row_is_no_prompt():
    text = "\n\nHuman: hi\n\nAssistant: a\n\nAssistant: b"
    assert prompt({"chosen": text, "rejected": text}) is None
    rows, dropped = unique([("line 1", None, False)])
    assert (rows, dropped["with two answers in a row"]) == ([], 1)


def test_named_columns():
    columns = Columns(prompt="question", chosen="best", rejected="worst")
    row = to_prompt({"question": "why?", "best": "so", "worst": "no"}, columns, "here")
    assert (row["chosen"], row["rejected"]) == ("so", "no")


def test_the_same_prompt_has_the_same_id_wherever_it_stands():
    assert prompt({"prompt": "why?"})["prompt_id"] == prompt({"prompt": "why?", "other": 1})["prompt_id"]
    assert prompt({"prompt": "why?"})["prompt_id"] != prompt({"prompt": "why"})["prompt_id"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "why?"}, "file, line 1: missing prompt .*found text"),
        ({"prompt": "  "}, "file, line 1: empty prompt"),
        ({"prompt": []}, "expected text or a list of messages"),
        ({"prompt": 3}, "expected text or a list of messages"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "expected role"),
        ({"prompt": TURNS[:2]}, "last message is the assistant's"),
        ({"chosen": "no turns", "rejected": "none"}, "expected a transcript"),
    ],
)
def test_bad_rows_are_named(row, message):
    with pytest.raises(InputError, match=message):
        prompt(row)


def test_sources(tmp_path):
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_text(json.dumps(HH) + "\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        assert [row for _, row in read_source(str(path), PACKAGED, None, "train")] == [HH]
    assert next(read_source("packaged", PACKAGED, None, "train"))[0].endswith("instructions.jsonl, line 1")
    with pytest.raises(InputError, match="expected packaged"):
        next(read_source("prompts.csv", PACKAGED, None, "train"))


def test_hub_data_set_with_named_columns(monkeypatch):
    """The hub is asked for the subset and split of config; rows come through the named columns."""
    asked = []

    def load_dataset(name, subset, split):
        asked.append((name, subset, split))
        return [{"question": "why?", "best": "so", "worst": "no"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    rows = list(read_source("hub:owner/data", PACKAGED, "helpful", "test"))
    assert asked == [("owner/data", "helpful", "test")]
    assert rows[0][0] == "hub:owner/data, row 0"
    assert to_prompt(rows[0][1], Columns("question", "best", "worst"), rows[0][0])["chosen"] == "so"

    def refuse(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(InputError, match="hub:owner/data could not be loaded .offline"):
        list(read_source("hub:owner/data", PACKAGED, None, "train"))


def test_torn_line_and_empty_file(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b')
    with pytest.raises(InputError, match="line 2: not JSON.*torn"):
        list(read_source(str(path), PACKAGED, None, "train"))
    path.write_text("")
    with pytest.raises(InputError, match="empty file"):
        list(read_source(str(path), PACKAGED, None, "train"))
    with pytest.raises(InputError, match="no such file"):
        list(read_source(str(tmp_path / "absent.jsonl"), PACKAGED, None, "train"))


def test_repeated_prompts_are_dropped_and_repeated_ids_refused():
    row = {"prompt_id": "x", "messages": TURNS}
    assert unique([("line 1", row, False), ("line 2", row, False)]) == (
        [row],
        {"repeated": 1, "with two answers in a row": 0},
    )
    with pytest.raises(InputError, match="line 2: duplicate prompt_id x, first in line 1"):
        unique([("line 1", row, True), ("line 2", row, True)])


def test_the_same_text_under_two_ids_is_one_prompt():
    """Else one could be trained on and the other held out."""
    rows = [
        ("line 1", {"prompt_id": "x", "messages": TURNS}, True),
        ("line 2", {"prompt_id": "y", "messages": TURNS}, True),
    ]
    assert [row["prompt_id"] for row in unique(rows)[0]] == ["x"]


def test_an_id_may_be_zero():
    assert prompt({"prompt_id": 0, "prompt": "why?"})["prompt_id"] == "0"


def test_split_takes_and_holds_out():
    rows = [{"prompt_id": str(i)} for i in range(100)]
    train, held_out = split_rows(rows, 50, 0.2, np.random.default_rng(0))
    assert (len(train), len(held_out)) == (40, 10)
    assert len({row["prompt_id"] for row in train + held_out}) == 50
    with pytest.raises(InputError, match="take asks for 101 prompts, the source has 100"):
        split_rows(rows, 101, 0.2, np.random.default_rng(0))
    with pytest.raises(InputError, match="at least two"):
        split_rows(rows[:1], None, 0.5, np.random.default_rng(0))


@pytest.mark.skipif(not Path(SHARED_DATA).is_file(), reason="the HH-RLHF pairs are not on this machine")
def test_real_hh_pairs():
    rows, dropped = unique(
        (where, to_prompt(row, Columns(), where), False)
        for where, row in read_source(str(SHARED_DATA), PACKAGED, None, "test")
    )
    assert len(rows) + sum(dropped.values()) == 2312
    assert dropped["with two answers in a row"] == 4
    assert all(row["messages"][-1]["role"] == "user" for row in rows)
    assert all("\n\nHuman:" not in message["content"] for row in rows for message in row["messages"])
