"""Every form of prompt gives the same rows, and errors name invalid rows."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, SHARED_DATA
from prefloop.config.prompt_settings import Columns
from prefloop.core.errors import InputError
from prefloop.core.jsonl import read_rows
from prefloop.data.prompt_filters import (
    drop_repeated,
)
from prefloop.data.prompts import (
    check_format,
    fill_template,
    parse_rows,
    parse_template,
    to_prompt,
)
from prefloop.data.raw_rows import open_source
from steps import PROMPT_OUTPUTS

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
    return to_prompt(row, Columns(), "file, line 1")[0]


def read(rows: list[dict], word: str = "columns", template: list[dict] | None = None) -> tuple[list[dict], dict]:
    """Return the prompts kept from raw rows, and the counts of dropped rows."""
    raw = ((f"file, line {number}", row) for number, row in enumerate(rows, start=1))
    kept, dropped = drop_repeated(parse_rows(raw, word, Columns(), template))
    return [row.prompt for row in kept], dropped


def test_packaged_prompts_are_numerous_and_varied():
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


def test_transcripts_that_differ_earlier_form_no_pair():
    row = prompt({"chosen": HH["chosen"], "rejected": HH["rejected"].replace("hi", "ho")})
    assert row["messages"] == TURNS
    assert "chosen" not in row


def test_transcript_with_two_answers_in_a_row_is_dropped():
    text = "\n\nHuman: hi\n\nAssistant: a\n\nAssistant: b"
    assert read([{"chosen": text, "rejected": text}]) == ([], {"repeated": 0, "with two answers in a row": 1})


def test_named_columns():
    columns = Columns(prompt="question", chosen="best", rejected="worst")
    row, _ = to_prompt({"question": "why?", "best": "so", "worst": "no"}, columns, "here")
    assert (row["chosen"], row["rejected"]) == ("so", "no")


def test_prompt_id_does_not_depend_on_the_position():
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
def test_invalid_rows_raise_with_the_line(row, message):
    with pytest.raises(InputError, match=message):
        prompt(row)


def test_same_id_for_two_prompts_raises():
    rows = [{"prompt_id": "x", "messages": [{"role": "user", "content": text}]} for text in "aab"]
    assert read(rows[:2], "ultrachat")[1] == {"repeated": 1}
    with pytest.raises(InputError, match="line 3: duplicate prompt_id x, first in file, line 2"):
        read(rows, "ultrachat")


def test_id_may_be_zero():
    assert prompt({"prompt_id": 0, "prompt": "why?"})["prompt_id"] == "0"


@pytest.mark.skipif(not Path(SHARED_DATA).is_file(), reason="the HH-RLHF pairs are not on this machine")
def test_real_hh_pairs():
    raw = [row for _, row in open_source(str(SHARED_DATA), PACKAGED, None, "test").rows]
    rows, dropped = read(raw, "hh_rlhf")
    assert (rows, dropped) == read(raw)
    assert len(rows) + sum(dropped.values()) == 2312
    assert dropped["with two answers in a row"] == 4
    assert all(row["messages"][-1]["role"] == "user" for row in rows)
    assert all("\n\nHuman:" not in message["content"] for row in rows for message in row["messages"])


def test_empty_prompt_raises_only_in_user_prompts():
    row = {"chosen": "\n\nHuman: \n\nAssistant: a", "rejected": "\n\nHuman: \n\nAssistant: b"}
    assert read([HH, row], "hh_rlhf")[1] == {"repeated": 0, "with an empty prompt": 1}
    with pytest.raises(InputError, match="line 2: empty prompt"):
        read([HH, row])


TEMPLATE = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{question} ({info.title})"}]
ASKED = {"question": "why?", "info": {"title": "T", "stars": 3, "tags": []}, "chosen": "so", "rejected": "no"}


def test_template_makes_the_prompt_and_keeps_the_pair():
    (row,), dropped = read([ASKED], template=TEMPLATE)
    assert row["messages"] == [TEMPLATE[0], {"role": "user", "content": "why? (T)"}]
    assert (row["chosen"], row["rejected"]) == ("so", "no")
    assert dropped == {"repeated": 0}


def test_template_replaces_the_prompt_column():
    (parsed,) = parse_rows([("here", ASKED)], "columns", Columns(prompt="question"), TEMPLATE)
    assert parsed.prompt["messages"][1]["content"] == "why? (T)"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{code}", 'f"{question}" {} {0}'),  # braces in a value are text, even if they contain a column name
        ('{question} As {"a": {"b": 1}} or {}.', 'why? As {"a": {"b": 1}} or {}.'),
        ("{question}{question}", "why?why?"),
        ("{stars} {info.stars} {a.b}", "1.5 3 dotted"),
        ("{a column}", "spaced"),
    ],
)
def test_placeholders(content, expected):
    row = ASKED | {"code": 'f"{question}" {} {0}', "stars": 1.5, "a.b": "dotted", "a column": "spaced"}
    assert fill_template([{"role": "user", "content": content}], row, "here") == [{"role": "user", "content": expected}]


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
def test_placeholders_without_a_value_raise(content, message):
    with pytest.raises(InputError, match=message):
        fill_template([{"role": "user", "content": content}], ASKED, "here")


def test_template_is_passed_as_json():
    assert parse_template(json.dumps(TEMPLATE)) == TEMPLATE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{'role': 'user'}]", "prompts.messages_template: not JSON"),
        ('"{question}"', "is not a list of messages"),
        ('{"role": "user", "content": "{question}"}', "is not a list of messages"),
        ("[]", "expected text or a list of messages"),
        ('["{question}"]', "is not a message: expected role"),
        ('[{"role": "user", "text": "{question}"}]', "a user message has no content"),
        ('[{"role": "robot", "content": "{question}"}]', "expected role"),
        ('[{"role": "user", "content": [{"type": "image"}]}]', "a message with images or other content"),
        ('[{"role": "assistant", "content": "{question}"}]', "last message is the assistant's"),
    ],
)
def test_invalid_templates_raise(text, message):
    with pytest.raises(InputError, match=message):
        parse_template(text)


def test_settings_without_effect_are_refused():
    check_format("columns", Columns(prompt="question"), TEMPLATE)
    check_format("shp", Columns(), None)
    with pytest.raises(InputError, match="prompts.messages_template: only for prompts.format columns; shp"):
        check_format("shp", Columns(), TEMPLATE)
    with pytest.raises(InputError, match="prompts.columns: only for prompts.format columns; shp"):
        check_format("shp", Columns(prompt="question"), None)
    with pytest.raises(InputError, match="prompts.format: sph is not one of columns, hh_rlhf"):
        check_format("sph", Columns(), None)


@pytest.fixture
def program(manifests, tmp_path):
    """Starts prepare_prompts on the given rows as Snakemake does."""

    def start(rows: list[dict], *flags: str) -> subprocess.CompletedProcess:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [sys.executable, ROOT / "workflow/scripts/prepare_prompts.py", "--source", "rows.jsonl"]
        command += ["--packaged", PACKAGED, "--model", manifests["llama"], "--max-prompt-tokens", "256"]
        command += [*PROMPT_OUTPUTS, *flags]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return start


def test_program_prints_drop_reasons_with_counts(program, tmp_path):
    rows = [{"question": f"number {n}", "chosen": "a good reply", "rejected": "a bad one"} for n in range(6)]
    rows += [rows[0], rows[1] | {"question": "void", "rejected": "a good reply"}]
    rows += [rows[1] | {"question": "long", "chosen": "a" * 300}, rows[1] | {"question": "q" * 300}]
    template = [{"role": "user", "content": "Say {question}!"}]
    done = program(rows, "--messages-template", json.dumps(template), "--max-response-tokens", "100")
    assert re.sub(r"[\d.]+ s \([\d,.]+ rows/s\)", "…", done.stdout) == (
        "prepare_prompts: 6 for training, 1 for evaluation, of 10 rows of rows.jsonl in …, dropped 1 repeated, 1 "
        "longer than 256 tokens, 1 with a response longer than 100 tokens; pairs dropped from prompts that were kept: "
        "1 with equal responses\n"
    ), done.stderr
    kept = [*read_rows(tmp_path / "train.jsonl"), *read_rows(tmp_path / "eval.jsonl")]
    expected = {f"Say {name}!" for name in ["void", *(f"number {n}" for n in range(6))]}
    assert {row["messages"][0]["content"] for row in kept} == expected
    assert [("chosen" in row) for row in kept].count(False) == 1


def test_program_explains_in_one_line_why_no_prompt_is_left(program):
    post = {"history": "why?", "human_ref_A": "so", "human_ref_B": "no", "labels": 1, "score_A": 3, "score_B": 2}
    done = program([post], "--format", "shp")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no prompt is left: 1 rows of rows.jsonl; dropped 0 repeated, 1 with a score")
    assert done.stderr.count("\n") == 1


def test_kept_columns_are_in_meta(program, tmp_path):
    """A reference answer of the source is added to the prompt's meta, which keeps its other values."""
    rows = [
        {"prompt": f"{n} + 1?", "answer": str(n + 1), "info": {"level": n}, "meta": {"by": "me"}, "other": 0}
        for n in range(4)
    ]
    done = program(rows, "--keep", "answer", "info.level")
    assert done.returncode == 0, done.stderr
    kept = [*read_rows(tmp_path / "train.jsonl"), *read_rows(tmp_path / "eval.jsonl")]
    assert {row["messages"][0]["content"]: row["meta"] for row in kept} == {
        f"{n} + 1?": {"by": "me", "answer": str(n + 1), "info.level": n} for n in range(4)
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "why?"}, "error: rows.jsonl, line 1: prompts.keep: missing answer; found prompt"),
        (
            {"prompt": "why?", "answer": 1, "meta": "mine"},
            'error: rows.jsonl, line 1: meta is "mine", expected a mapping, to which prompts.keep adds columns',
        ),
    ],
)
def test_column_that_cannot_be_kept_raises(program, row, message):
    done = program([row], "--keep", "answer")
    assert (done.returncode, done.stderr) == (1, f"{message}\n")
