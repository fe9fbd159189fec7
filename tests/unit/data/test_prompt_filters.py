"""Repeated, void and too long rows are dropped and counted, and prompts are drawn and split."""

import numpy as np
import pytest

import tiny
from prefloop.config.prompt_settings import Columns
from prefloop.core.errors import InputError
from prefloop.data.conversations import merge_roles
from prefloop.data.prompt_filters import (
    Limits,
    SeenPrompts,
    draw_rows,
    drop_repeated,
    drop_unfit,
    drop_void_pairs,
    split_rows,
)
from prefloop.data.prompts import ParsedRow, content_id, to_prompt

TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "why?"},
]
PAIR = {"prompt": "why?", "chosen": "so", "rejected": "no"}


def prompt(row: dict) -> dict:
    return to_prompt(row, Columns(), "file, line 1")[0]


def test_repeated_prompts_are_dropped_and_repeated_ids_raise():
    row = {"prompt_id": "x", "messages": TURNS}
    kept, dropped = drop_repeated([ParsedRow("line 1", row), ParsedRow("line 2", row)])
    assert ([row.origin for row in kept], dropped) == (["line 1"], {"repeated": 1})
    with pytest.raises(InputError, match="line 2: duplicate prompt_id x, first in line 1"):
        drop_repeated([ParsedRow(f"line {i}", row, has_own_id=True) for i in (1, 2)])


def test_prompts_of_the_evaluation_set_are_dropped():
    """Also if they are repeated, and if their roles were merged for the chat template of the policy."""
    with_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}]
    row = {"prompt_id": "x", "messages": with_system}
    for messages in (with_system, merge_roles(with_system)):
        seen = SeenPrompts({}, set(), {content_id(messages)})
        kept, dropped = drop_repeated([ParsedRow("line 1", row), ParsedRow("line 2", row)], seen)
        assert (kept, dropped) == ([], {"repeated": 0, "in the evaluation set": 2})


def test_same_text_with_two_ids_is_one_prompt():
    """Otherwise one copy could be in train and the other in eval."""
    rows = [
        ParsedRow("line 1", {"prompt_id": "x", "messages": TURNS}, has_own_id=True),
        ParsedRow("line 2", {"prompt_id": "y", "messages": TURNS}, has_own_id=True),
    ]
    assert [row.prompt["prompt_id"] for row in drop_repeated(rows)[0]] == ["x"]


def test_source_read_in_parts_equals_the_whole_source():
    """Repeated prompts and ids are recognized across parts."""
    texts = [("x", "a"), ("y", "b"), ("z", "a"), ("v", "c"), ("w", "b")]
    rows = [
        ParsedRow(f"line {i}", {"prompt_id": name, "messages": [{"role": "user", "content": text}]}, has_own_id=True)
        for i, (name, text) in enumerate(texts)
    ]
    seen = SeenPrompts({}, set())
    parts = [drop_repeated(rows[:2], seen), drop_repeated(rows[2:], seen)]
    kept, dropped = drop_repeated(rows)
    assert [row for part, _ in parts for row in part] == kept
    assert [counts["repeated"] for _, counts in parts] == [0, dropped["repeated"]] == [0, 2]
    with pytest.raises(InputError, match="line 0: duplicate prompt_id x, first in line 0"):
        drop_repeated(rows[:1], seen)


def test_split_takes_and_holds_out():
    drawn = draw_rows(100, 50, np.random.default_rng(0))
    train, evaluated = split_rows(drawn, 0.2)
    assert (len(train), len(evaluated)) == (40, 10)
    assert len({*train, *evaluated}) == 50
    assert drawn == np.random.default_rng(0).permutation(100)[:50].tolist()
    with pytest.raises(InputError, match="take asks for 101 prompts, but the source has 100"):
        draw_rows(100, 101, np.random.default_rng(0))
    with pytest.raises(InputError, match="at least two"):
        split_rows([0], 0.5)


@pytest.mark.parametrize(
    ("take", "shares", "drawn"),
    [
        (10, [(40, 0.5), (60, 0.5)], [5, 5]),
        (10, [(40, 0.25), (60, 0.75)], [2, 8]),  # 2.5 and 7.5: either source may get the tied remainder
        (None, [(40, 0.5), (60, None)], [20, 60]),
        (None, [(40, 0.1), (60, 0.01)], [4, 0]),
        (100, [(40, 0.4), (60, 0.6)], [40, 60]),
    ],
)
def test_shares_of_several_sources(take, shares, drawn):
    numbers = draw_rows(100, take, np.random.default_rng(0), shares)
    first = sum(number < 40 for number in numbers)
    assert len(set(numbers)) == len(numbers) == sum(drawn)
    assert abs(first - drawn[0]) <= (shares[0][1] == 0.25)


def test_share_larger_than_the_source_raises():
    with pytest.raises(InputError, match=r"prompts.sources: source 1 has 40 prompts, but its share of 90 is 45"):
        draw_rows(100, 90, np.random.default_rng(0), [(40, 0.5), (60, 0.5)])


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ({"chosen": "so", "rejected": " so\n"}, "with equal responses"),
        ({"chosen": "so", "rejected": " "}, "with an empty response"),
        ({"chosen": "", "rejected": ""}, "with an empty response"),
    ],
)
def test_invalid_pairs_are_removed_and_prompts_kept(pair, reason):
    sound, bare = prompt(PAIR), prompt({"prompt": "how?"})
    void = prompt({"prompt": "what?"} | pair)
    rows, dropped = drop_void_pairs([sound, void, bare])
    assert rows == [sound, prompt({"prompt": "what?"}), bare]
    assert dropped == {reason: 1}


def test_long_prompts_and_responses_are_dropped_and_counted():
    """Limits are inclusive, either response may be too long, and prompts without responses are kept."""
    tokenizer = tiny.tokenizer()
    rows = [
        prompt({"prompt": "q" * 9, "chosen": "w" * 7, "rejected": "z"}),
        prompt({"prompt": "q" * 8, "chosen": "z", "rejected": "w" * 9}),
        prompt({"prompt": "q" * 7}),
        prompt({"prompt": "q" * 99, "chosen": "w" * 99, "rejected": "z"}),
    ]
    limit = len(tokenizer("w" * 7, add_special_tokens=False)["input_ids"])
    kept, dropped = drop_unfit(rows, tokenizer, Limits(40, limit))
    assert kept == [rows[0], rows[2]]
    assert dropped == {"longer than 40 tokens": 1, f"with a response longer than {limit} tokens": 1}
    assert drop_unfit(rows, tokenizer, Limits(40)) == (rows[:3], {"longer than 40 tokens": 1})


def test_rows_with_too_much_text_are_dropped_before_they_are_tokenized():
    """Bytes of prompts and responses count. A tokenizer needs 300 times as much memory as the text."""

    def tokenizer(*_, **__):
        raise AssertionError("tokenized")

    rows = [{"messages": [{"role": "user", "content": "é" * 6}]}]
    rows += [{"messages": [{"role": "user", "content": "a"}], "chosen": "b" * 11, "rejected": "c"}]
    limits = Limits(40, max_prompt_bytes=11)
    assert drop_unfit(rows, tokenizer, limits) == (
        [],
        {"longer than 40 tokens": 0, "of more than 11 bytes (max_prompt_bytes)": 2},
    )
