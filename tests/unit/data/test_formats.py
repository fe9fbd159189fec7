"""Rows of every supported format become prompt, chosen and rejected; the rows here are made up."""

import json

import pytest

from prefloop.config.prompt_settings import Columns
from prefloop.core.errors import InputError
from prefloop.core.registry import registry_words
from prefloop.data.formats import DROP_REASONS, FORMATS, strip_html
from prefloop.data.prompt_filters import drop_repeated
from prefloop.data.prompts import parse_rows


def conversation(*contents: str) -> list[dict]:
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, contents, strict=False)]


COMMENTS = {
    "post_id": "p1",
    "domain": "askbaking_train",
    "history": "Why did my loaf sink?",
    "human_ref_A": "Too much yeast.",
    "human_ref_B": "It does that.",
    "labels": 1,
    "score_A": 10,
    "score_B": 5,
    "score_ratio": 2.0,
}
QUESTION = {
    "qid": 7,
    "question": "<p>How do I add one?</p>\n",
    "answers": [
        {"answer_id": 1, "pm_score": 2, "selected": False, "text": "<p>Guess.</p>"},
        {"answer_id": 2, "pm_score": -1, "selected": False, "text": "<p>You <em>cannot</em>.</p>"},
        {"answer_id": 3, "pm_score": 2, "selected": True, "text": "<p>Use <code>n + 1</code>.</p>"},
    ],
    "metadata": ["https://example.org/7"],
}
POST = {
    "info": {"id": "t3_1", "post": "My cat {sic} sat on it.", "title": "Laptop broken", "subreddit": "cats"},
    "summaries": [{"text": " A cat.", "policy": "ref"}, {"text": " Cat broke my laptop.", "policy": "sup"}],
    "choice": 1,
    "split": "train",
}
SAFETY = {
    "prompt": "How do I pick a lock?",
    "response_0": "With a tension wrench.",
    "response_1": "Call a locksmith.",
    "better_response_id": 0,
    "safer_response_id": 1,
}
ULTRA = {
    "prompt": "Name a prime.",
    "prompt_id": "abc",
    "chosen": conversation("Name a prime.", "7"),
    "rejected": conversation("Name a prime.", "9"),
    "messages": conversation("Name a prime.", "7"),
    "score_chosen": 8.5,
    "score_rejected": 3.0,
}
NEWS = POST | {"info": {"id": "n1", "site": "news", "title": "T", "article": "Text.", "post": None, "subreddit": None}}
SHAREGPT = {
    "id": "x_0",
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "human", "value": "Capital of France?"},
        {"from": "gpt", "value": "Paris"},
    ],
}
ALPACA = {"instruction": "Translate.", "input": "bonjour", "output": "hello", "text": "Below is an instruction …"}
ALPACA_EVAL = {
    "dataset": "helpful_base",
    "instruction": "Name a prime.",
    "output": "7",
    "generator": "text_davinci_003",
}
MT_BENCH = {"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Now without the letter e."]}
SCORES = {"correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 1}
HELPSTEER = {"prompt": "c#", "response": "A language.", "helpfulness": 3} | SCORES
# For each format: a raw row, its prompt, its chosen and rejected response.
ROWS = {
    "columns": ({"prompt": "why?", "chosen": "so", "rejected": "no"}, "why?", "so", "no"),
    "hh_rlhf": (
        {"chosen": "\n\nHuman: why?\n\nAssistant: because", "rejected": "\n\nHuman: why?\n\nAssistant: no"},
        "why?",
        "because",
        "no",
    ),
    "ultrafeedback": (ULTRA, "Name a prime.", "7", "9"),
    "ultrachat": ({"prompt": "Hi", "prompt_id": "u", "messages": conversation("Hi", "Ho", "Bye")}, "Hi", None, None),
    "shp": (COMMENTS, "Why did my loaf sink?", "Too much yeast.", "It does that."),
    "stack_exchange": (QUESTION, "How do I add one?", "Use `n + 1`.", "You cannot."),
    "tldr": (
        POST,
        "SUBREDDIT: r/cats\n\nTITLE: Laptop broken\n\nPOST: My cat {sic} sat on it.\n\nTL;DR:",
        "Cat broke my laptop.",
        "A cat.",
    ),
    "pku_safe_rlhf": (SAFETY, "How do I pick a lock?", "With a tension wrench.", "Call a locksmith."),
    "pku_safe_rlhf_safer": (SAFETY, "How do I pick a lock?", "Call a locksmith.", "With a tension wrench."),
    "rlhflow": ({"id": 1, "dataset": "x", "context_messages": conversation("a", "b", "c")}, "c", None, None),
    "sharegpt": (SHAREGPT, "Capital of France?", "Paris", None),
    "alpaca": (ALPACA, "Translate.\n\nbonjour", "hello", None),
    "alpaca_eval": (ALPACA_EVAL, "Name a prime.", "7", None),
    "mt_bench": (MT_BENCH, "Write a poem.", None, None),
    "helpsteer": (
        [HELPSTEER, HELPSTEER | {"response": "Do not know.", "helpfulness": 0}],
        "c#",
        "A language.",
        "Do not know.",
    ),
}
# For each format with a filter: raw rows that it drops.
DROPPED = {
    "ultrafeedback": [ULTRA | {"score_rejected": 8.5}],
    "ultrachat": [{"messages": []}, {"messages": [{"role": "system", "content": "Hi"}]}],
    "shp": [COMMENTS | {"score_B": 6}, COMMENTS | {"score_A": 2, "score_B": 3, "labels": 0}],
    "stack_exchange": [
        QUESTION | {"answers": []},
        QUESTION | {"answers": QUESTION["answers"][:1]},
        QUESTION | {"answers": [QUESTION["answers"][0], QUESTION["answers"][2]]},
    ],
    "tldr": [NEWS, NEWS | {"info": {"id": "n1", "article": "Text."}}],
    "sharegpt": [{"conversations": []}],
    "helpsteer": [HELPSTEER | {"prompt": "alone"}],
}


def raw_rows(row: dict | list[dict]) -> list[dict]:
    return row if isinstance(row, list) else [row]


def read(word: str, *rows: dict) -> tuple[list[dict], dict[str, int]]:
    raw = ((f"file, line {number}", row) for number, row in enumerate(rows, start=1))
    kept, dropped = drop_repeated(parse_rows(raw, word, Columns(), None))
    return [row.prompt for row in kept], dropped


def test_every_format_is_tested_and_is_a_choice():
    assert list(ROWS) == list(FORMATS) == registry_words("data.formats.FORMATS")
    assert set(DROPPED) == set(DROP_REASONS) < set(FORMATS)
    assert all(FORMATS[word].__doc__ for word in FORMATS)


@pytest.mark.parametrize("word", ROWS)
def test_rows_become_prompt_chosen_and_rejected(word):
    raw, prompt, chosen, rejected = ROWS[word]
    before = json.dumps(raw)
    (row,), dropped = read(word, *raw_rows(raw))
    assert row["messages"][-1] == {"role": "user", "content": prompt}
    assert (row.get("chosen"), row.get("rejected")) == (chosen, rejected)
    assert dropped == {"repeated": 0}
    assert json.dumps(raw) == before, "the raw row is not changed"


@pytest.mark.parametrize("word", DROPPED)
def test_filtered_rows_are_counted(word):
    rows, dropped = read(word, *DROPPED[word], *raw_rows(ROWS[word][0]))
    assert len(rows) == 1
    assert dropped == {"repeated": 0, DROP_REASONS[word]: len(DROPPED[word])}


@pytest.mark.parametrize("word", [word for word in ROWS if word != "columns"])
def test_missing_column_raises_with_the_expected_columns(word):
    expected = rf"file, line 1: prompts.format {word}: missing (\w+); found text; expected \1\b"
    with pytest.raises(InputError, match=expected):
        read(word, {"text": "why?"})


@pytest.mark.parametrize(
    ("word", "row", "message"),
    [
        ("tldr", POST | {"info": {"post": "x", "title": "y"}}, "missing info.subreddit; found post, title; expected"),
        ("stack_exchange", QUESTION | {"answers": [{"text": "x"}]}, "missing pm_score; found text; expected"),
        ("pku_safe_rlhf", SAFETY | {"better_response_id": None}, "preferred response is None, expected 0 or 1"),
        ("shp", COMMENTS | {"labels": "A"}, "preferred response is 'A', expected 0 or 1"),
        ("tldr", POST | {"summaries": POST["summaries"] * 2}, "unexpected shape of the row"),
        ("tldr", POST | {"info": "text"}, "unexpected shape of the row"),
        ("stack_exchange", QUESTION | {"question": None}, "unexpected shape of the row"),
        ("shp", COMMENTS | {"score_A": None}, "unexpected shape of the row"),
        ("sharegpt", {"conversations": [{"text": "Hi"}]}, "missing role; found text; expected role, content"),
        ("sharegpt", {"conversations": ["Hi"]}, "missing role; found no fields"),
        ("mt_bench", MT_BENCH | {"turns": "Write a poem."}, 'the turns are "Write a poem.", expected a list'),
        ("mt_bench", MT_BENCH | {"turns": []}, "unexpected shape of the row"),
        ("helpsteer", HELPSTEER | {"helpfulness": "much"}, "unexpected shape of the row"),
    ],
)
def test_rows_of_another_shape_raise(word, row, message):
    with pytest.raises(InputError, match=f"file, line 1: prompts.format {word}: .*{message}"):
        read(word, row)


def test_second_comment_may_be_the_preferred_one():
    row = read("shp", COMMENTS | {"labels": 0, "score_A": 1, "score_B": 2})[0][0]
    assert (row["chosen"], row["rejected"]) == ("It does that.", "Too much yeast.")


def test_repeated_posts_keep_the_first_unfiltered_pair():
    weak = COMMENTS | {"human_ref_B": "weak", "score_B": 6}
    rows, dropped = read("shp", weak, COMMENTS, COMMENTS | {"human_ref_B": "third"})
    assert [row["rejected"] for row in rows] == ["It does that."]
    assert dropped == {"repeated": 1, DROP_REASONS["shp"]: 1}


def test_ids_of_published_data_sets_are_kept():
    assert [read(word, ROWS[word][0])[0][0]["prompt_id"] for word in ("ultrafeedback", "ultrachat")] == ["abc", "u"]


def test_earlier_conversation_is_kept_before_the_last_question():
    (row,), _ = read("rlhflow", ROWS["rlhflow"][0])
    assert row["messages"] == conversation("a", "b", "c")


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain", "plain"),
        ("<p>one\n  line</p>\n\n<p>two</p>", "one line\n\ntwo"),
        ("<p>a<br>\nb<br/> c</p>", "a\nb\nc"),
        ("<p>1 &lt; 2 &amp;&amp; x&#39;s</p>", "1 < 2 && x's"),
        ('<p>See <a href="https://example.org">this</a> <strong>now</strong>.</p>', "See this now."),
        ("<p>Call <code>f(x)</code>.</p>", "Call `f(x)`."),
        (
            "<p>So:</p>\n<pre><code>def f(x):\n\n\n    return x &lt; 1\n</code></pre>\n<p>Done.</p>",
            "So:\n\n```\ndef f(x):\n\n\n    return x < 1\n```\n\nDone.",
        ),
        ("<pre class='lang-py'>  indented\n</pre>", "```\n  indented\n```"),
        ("<ul>\n<li>one</li>\n<li><p>two</p></li>\n</ul><p>end</p>", "* one\n\n* two\n\nend"),
        ("<ul><li></li></ul><p>end</p>", "end"),
        ("<blockquote>\n  <p>said</p>\n</blockquote>\n<p>so</p>", "said\n\nso"),
        ("<p>unclosed <b>tags<p>go on", "unclosed tags\n\ngo on"),
        ("<pre>unclosed", "```\nunclosed\n```"),
        ("<!-- no --><p></p> \n", ""),
    ],
)
def test_html_becomes_text(html, text):
    assert strip_html(html) == text


def test_sharegpt_keeps_system_and_earlier_turns():
    """ShareGPT has its own names for roles. The conversation before the last answer is the prompt."""
    (row,), _ = read("sharegpt", SHAREGPT)
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "user"]
    assert row["messages"][0]["content"] == "Be brief."


def test_sharegpt_system_column_comes_first():
    turns = SHAREGPT["conversations"]
    (row,), _ = read("sharegpt", {"conversations": turns[1:], "system": "Be brief."})
    assert row == read("sharegpt", SHAREGPT)[0][0]


def test_sharegpt_conversation_that_ends_with_the_human_has_no_response():
    (row,), _ = read("sharegpt", {"conversations": SHAREGPT["conversations"][:4]})
    assert row["messages"][-1] == {"role": "user", "content": "Capital of France?"}
    assert "chosen" not in row


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_sharegpt_pairs(system):
    """The pair has two last answers, or two complete conversations."""
    turns, answers = SHAREGPT["conversations"][1:4], {"chosen": "Paris", "rejected": "Rome"}
    last = {side: {"from": "gpt", "value": text} for side, text in answers.items()}
    whole = {side: [*turns, turn] for side, turn in last.items()}
    (row,), _ = read("sharegpt", {"conversations": turns, "system": system} | last)
    assert {side: row[side] for side in answers} == answers
    assert [message["role"] for message in row["messages"]] == ["system"] * bool(system) + ["user", "assistant", "user"]
    assert read("sharegpt", {"system": system} | whole)[0] == [row]


def test_sharegpt_tools_and_unknown_roles():
    calls = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather"}'},
        {"from": "observation", "value": "18 °C"},
        {"from": "gpt", "value": "It is 18 °C."},
    ]
    (row,), dropped = read("sharegpt", {"conversations": calls}, {"conversations": [{"from": "robot", "value": "x"}]})
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool"]
    assert row["chosen"] == "It is 18 °C."
    assert dropped == {"repeated": 0, 'with the unknown role "robot"': 1}


def test_alpaca_without_input_is_the_instruction():
    assert read("alpaca", ALPACA | {"input": ""})[0][0]["messages"][0]["content"] == "Translate."


def test_mt_bench_on_the_hub_has_turns_in_column_prompt():
    row = {"category": "writing", "prompt": MT_BENCH["turns"], "reference": [], "prompt_id": 7}
    assert read("mt_bench", row)[0][0]["messages"] == [{"role": "user", "content": "Write a poem."}]


def test_helpsteer_takes_the_best_and_the_worst_of_consecutive_rows():
    answers = [HELPSTEER | {"response": text, "helpfulness": score} for text, score in [("b", 2), ("a", 4), ("c", 1)]]
    rows, _ = read("helpsteer", *answers, *(row | {"prompt": "f#"} for row in answers[:2]))
    assert [(row["messages"][0]["content"], row["chosen"], row["rejected"]) for row in rows] == [
        ("c#", "a", "c"),
        ("f#", "a", "b"),
    ]


def test_helpsteer_with_earlier_turns():
    prompt = "Hi\n\n<extra_id_1>Assistant\nHello\nyou\n\n<extra_id_1>User\nWhy?"
    rows, _ = read("helpsteer", *(HELPSTEER | {"prompt": prompt, "helpfulness": score} for score in (1, 2)))
    assert rows[0]["messages"] == conversation("Hi", "Hello\nyou", "Why?")
