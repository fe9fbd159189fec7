"""Every form of prompt source comes out as the same rows, and bad rows are named."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny
from conftest import ROOT, SHARED_DATA
from prefloop.prompts import (
    Columns,
    Known,
    check_settings,
    filled,
    parse_template,
    prompt_rows,
    read_source,
    short_enough,
    split_rows,
    to_prompt,
    unique,
    without_void_pairs,
)
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


def read(rows: list[dict], word: str = "columns", template: list[dict] | None = None) -> tuple[list[dict], dict]:
    """What is kept and dropped of raw rows."""
    raw = ((f"file, line {number}", row) for number, row in enumerate(rows, start=1))
    return unique(prompt_rows(raw, word, Columns(), template))


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
    assert read([{"chosen": text, "rejected": text}]) == ([], {"repeated": 0, "with two answers in a row": 1})


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
    assert unique([("line 1", row, False), ("line 2", row, False)]) == ([row], {"repeated": 1})
    with pytest.raises(InputError, match="line 2: duplicate prompt_id x, first in line 1"):
        unique([("line 1", row, True), ("line 2", row, True)])


def test_the_same_text_under_two_ids_is_one_prompt():
    """Else one could be trained on and the other held out."""
    rows = [
        ("line 1", {"prompt_id": "x", "messages": TURNS}, True),
        ("line 2", {"prompt_id": "y", "messages": TURNS}, True),
    ]
    assert [row["prompt_id"] for row in unique(rows)[0]] == ["x"]


def test_a_source_in_parts_is_the_source_as_a_whole():
    """What an earlier part had is known in a later one: repeated prompts, and ids given twice."""
    texts = [("x", "a"), ("y", "b"), ("z", "a"), ("v", "c"), ("w", "b")]
    rows = [
        (f"line {i}", {"prompt_id": name, "messages": [{"role": "user", "content": text}]}, True)
        for i, (name, text) in enumerate(texts)
    ]
    known = Known({}, set())
    parts = [unique(rows[:2], known), unique(rows[2:], known)]
    kept, dropped = unique(rows)
    assert [row for part, _ in parts for row in part] == kept
    assert [counts["repeated"] for _, counts in parts] == [0, dropped["repeated"]] == [0, 2]
    with pytest.raises(InputError, match="line 0: duplicate prompt_id x, first in line 0"):
        unique(rows[:1], known)


def test_one_id_for_two_prompts_is_refused_even_in_a_published_data_set():
    rows = [{"prompt_id": "x", "messages": [{"role": "user", "content": text}]} for text in "aab"]
    assert read(rows[:2], "ultrachat")[1] == {"repeated": 1}
    with pytest.raises(InputError, match="line 3: duplicate prompt_id x, first in file, line 2"):
        read(rows, "ultrachat")


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
    raw = list(read_source(str(SHARED_DATA), PACKAGED, None, "test"))
    rows, dropped = unique(prompt_rows(raw, "hh_rlhf", Columns(), None))
    assert (rows, dropped) == unique(prompt_rows(raw, "columns", Columns(), None))
    assert len(rows) + sum(dropped.values()) == 2312
    assert dropped["with two answers in a row"] == 4
    assert all(row["messages"][-1]["role"] == "user" for row in rows)
    assert all("\n\nHuman:" not in message["content"] for row in rows for message in row["messages"])


PAIR = {"prompt": "why?", "chosen": "so", "rejected": "no"}


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ({"chosen": "so", "rejected": " so\n"}, "with equal responses"),
        ({"chosen": "so", "rejected": " "}, "with an empty response"),
        ({"chosen": "", "rejected": ""}, "with an empty response"),
    ],
)
def test_pairs_that_prefer_nothing_are_taken_out_and_their_prompts_kept(pair, reason):
    sound, bare = prompt(PAIR), prompt({"prompt": "how?"})
    void = prompt({"prompt": "what?"} | pair)
    rows, dropped = without_void_pairs([sound, void, bare])
    assert rows == [sound, prompt({"prompt": "what?"}), bare]
    assert dropped == {reason: 1}


def test_long_prompts_and_responses_are_dropped_and_counted():
    """At the limit is within it, either response may be too long, and a prompt without responses stays."""
    tokenizer = tiny.tokenizer()
    rows = [
        prompt({"prompt": "q" * 9, "chosen": "w" * 7, "rejected": "z"}),
        prompt({"prompt": "q" * 8, "chosen": "z", "rejected": "w" * 9}),
        prompt({"prompt": "q" * 7}),
        prompt({"prompt": "q" * 99, "chosen": "w" * 99, "rejected": "z"}),
    ]
    limit = len(tokenizer("w" * 7, add_special_tokens=False)["input_ids"])
    kept, dropped = short_enough(rows, tokenizer, 40, limit)
    assert kept == [rows[0], rows[2]]
    assert dropped == {"longer than 40 tokens": 1, f"with a response longer than {limit} tokens": 1}
    assert short_enough(rows, tokenizer, 40, None) == (rows[:3], {"longer than 40 tokens": 1})


def test_an_empty_prompt_is_an_error_in_prompts_of_ones_own_and_a_reason_in_a_published_data_set():
    row = {"chosen": "\n\nHuman: \n\nAssistant: a", "rejected": "\n\nHuman: \n\nAssistant: b"}
    assert read([HH, row], "hh_rlhf")[1] == {"repeated": 0, "with an empty prompt": 1}
    with pytest.raises(InputError, match="line 2: empty prompt"):
        read([HH, row])


TEMPLATE = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{question} ({info.title})"}]
ASKED = {"question": "why?", "info": {"title": "T", "stars": 3, "tags": []}, "chosen": "so", "rejected": "no"}


def test_a_template_makes_the_prompt_and_leaves_the_pair():
    (row,), dropped = read([ASKED], template=TEMPLATE)
    assert row["messages"] == [TEMPLATE[0], {"role": "user", "content": "why? (T)"}]
    assert (row["chosen"], row["rejected"]) == ("so", "no")
    assert dropped == {"repeated": 0}


def test_a_template_replaces_the_prompt_column():
    ((_, row, _),) = prompt_rows([("here", ASKED)], "columns", Columns(prompt="question"), TEMPLATE)
    assert row["messages"][1]["content"] == "why? (T)"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{code}", 'f"{question}" {} {0}'),  # a value's braces are text, even where they name a column
        ('{question} As {"a": {"b": 1}} or {}.', 'why? As {"a": {"b": 1}} or {}.'),
        ("{question}{question}", "why?why?"),
        ("{stars} {info.stars} {a.b}", "1.5 3 dotted"),
        ("{a column}", "spaced"),
    ],
)
def test_placeholders(content, expected):
    row = ASKED | {"code": 'f"{question}" {} {0}', "stars": 1.5, "a.b": "dotted", "a column": "spaced"}
    assert filled([{"role": "user", "content": content}], row, "here") == [{"role": "user", "content": expected}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{qestion}", "here: prompts.messages_template: missing qestion; found question, info, chosen, rejected"),
        ("{info.titel}", "missing info.titel; found title, stars, tags"),
        ("{question.title}", "missing question.title; found no fields"),
        ("{info}", "info is .*, expected text or a number"),
        ("{info.tags}", r"info.tags is \[\], expected text or a number"),
    ],
)
def test_placeholders_that_have_no_value(content, message):
    with pytest.raises(InputError, match=message):
        filled([{"role": "user", "content": content}], ASKED, "here")


def test_a_template_arrives_as_json():
    assert parse_template(json.dumps(TEMPLATE)) == TEMPLATE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{'role': 'user'}]", "prompts.messages_template: not JSON"),
        ('"{question}"', "is no list of messages"),
        ('{"role": "user", "content": "{question}"}', "is no list of messages"),
        ("[]", "expected text or a list of messages"),
        ('["{question}"]', "is no message: expected role"),
        ('[{"role": "user", "text": "{question}"}]', "a user message has no content"),
        ('[{"role": "robot", "content": "{question}"}]', "expected role"),
        ('[{"role": "assistant", "content": "{question}"}]', "last message is the assistant's"),
    ],
)
def test_bad_templates(text, message):
    with pytest.raises(InputError, match=message):
        parse_template(text)


def test_settings_that_would_do_nothing_are_refused():
    check_settings("columns", Columns(prompt="question"), TEMPLATE)
    check_settings("shp", Columns(), None)
    with pytest.raises(InputError, match="prompts.messages_template: only with prompts.format columns, as shp"):
        check_settings("shp", Columns(), TEMPLATE)
    with pytest.raises(InputError, match="prompts.columns: only with prompts.format columns, as shp"):
        check_settings("shp", Columns(prompt="question"), None)
    with pytest.raises(InputError, match="prompts.format: sph is none of columns, hh_rlhf"):
        check_settings("sph", Columns(), None)


@pytest.fixture
def program(manifests, tmp_path):
    """The prompts program on made rows, as Snakemake would start it."""

    def start(rows: list[dict], *flags: str) -> subprocess.CompletedProcess:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [sys.executable, ROOT / "workflow/scripts/prompts.py", "--source", "rows.jsonl"]
        command += ["--packaged", PACKAGED, "--model", manifests["llama"]]
        command += ["--train", "train.jsonl", "--held-out", "eval.jsonl", *flags]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return start


def test_the_program_names_every_reason_with_its_count(program, tmp_path):
    rows = [{"question": f"number {n}", "chosen": "a good reply", "rejected": "a bad one"} for n in range(6)]
    rows += [rows[0], rows[1] | {"question": "void", "rejected": "a good reply"}]
    rows += [rows[1] | {"question": "long", "chosen": "a" * 300}, rows[1] | {"question": "q" * 300}]
    template = [{"role": "user", "content": "Say {question}!"}]
    done = program(rows, "--messages-template", json.dumps(template), "--max-response-tokens", "100")
    assert re.sub(r"[\d.]+ s \([\d,.]+ rows/s\)", "…", done.stdout) == (
        "prompts: 6 for training, 1 held out, of 10 rows of rows.jsonl in …, dropped 1 repeated, 1 longer than 256 "
        "tokens, 1 with a response longer than 100 tokens; pairs left out of prompts that stay: 1 with equal "
        "responses\n"
    ), done.stderr
    kept = [*read_rows(tmp_path / "train.jsonl"), *read_rows(tmp_path / "eval.jsonl")]
    expected = {f"Say {name}!" for name in ["void", *(f"number {n}" for n in range(6))]}
    assert {row["messages"][0]["content"] for row in kept} == expected
    assert [("chosen" in row) for row in kept].count(False) == 1


def test_the_program_says_in_one_line_why_no_prompt_is_left(program):
    post = {"history": "why?", "human_ref_A": "so", "human_ref_B": "no", "labels": 1, "score_A": 3, "score_B": 2}
    done = program([post], "--format", "shp")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no prompt is left: 1 rows of rows.jsonl; dropped 0 repeated, 1 with a score")
    assert done.stderr.count("\n") == 1
