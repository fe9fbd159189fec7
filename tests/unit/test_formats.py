"""Every published data set's rows, here made ones of their shape, come out as prompt, chosen and rejected."""

import json

import pytest

from prefloop.checks import registry_words
from prefloop.formats import FILTERS, FORMATS, without_html
from prefloop.prompts import Columns, prompt_rows, unique
from prefloop.rows import InputError


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
# For each word: a raw row, its prompt, its chosen and rejected response.
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
}
# For each word that has a filter: raw rows that it drops.
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
}


def read(word: str, *rows: dict) -> tuple[list[dict], dict[str, int]]:
    raw = ((f"file, line {number}", row) for number, row in enumerate(rows, start=1))
    return unique(prompt_rows(raw, word, Columns(), None))


def test_every_word_is_tested_and_is_a_choice_of_config():
    assert list(ROWS) == list(FORMATS) == registry_words("formats.FORMATS")
    assert set(DROPPED) == set(FILTERS) < set(FORMATS)
    assert all(FORMATS[word].__doc__ for word in FORMATS)


@pytest.mark.parametrize("word", ROWS)
def test_rows_become_prompt_chosen_and_rejected(word):
    raw, prompt, chosen, rejected = ROWS[word]
    before = json.dumps(raw)
    (row,), dropped = read(word, raw)
    assert row["messages"][-1] == {"role": "user", "content": prompt}
    assert (row.get("chosen"), row.get("rejected")) == (chosen, rejected)
    assert dropped == {"repeated": 0}
    assert json.dumps(raw) == before, "the raw row is left as it was"


@pytest.mark.parametrize("word", DROPPED)
def test_filtered_rows_are_counted(word):
    rows, dropped = read(word, *DROPPED[word], ROWS[word][0])
    assert len(rows) == 1
    assert dropped == {"repeated": 0, FILTERS[word]: len(DROPPED[word])}


@pytest.mark.parametrize("word", [word for word in ROWS if word != "columns"])
def test_a_missing_column_is_named_with_what_was_expected(word):
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
        ("tldr", POST | {"summaries": POST["summaries"] * 2}, "a row of another shape"),
        ("tldr", POST | {"info": "text"}, "a row of another shape"),
        ("stack_exchange", QUESTION | {"question": None}, "a row of another shape"),
        ("shp", COMMENTS | {"score_A": None}, "a row of another shape"),
    ],
)
def test_rows_of_another_shape_are_named(word, row, message):
    with pytest.raises(InputError, match=f"file, line 1: prompts.format {word}: .*{message}"):
        read(word, row)


def test_the_second_comment_may_be_the_preferred_one():
    row = read("shp", COMMENTS | {"labels": 0, "score_A": 1, "score_B": 2})[0][0]
    assert (row["chosen"], row["rejected"]) == ("It does that.", "Too much yeast.")


def test_a_post_with_more_than_one_pair_keeps_the_first_that_is_not_filtered():
    weak = COMMENTS | {"human_ref_B": "weak", "score_B": 6}
    rows, dropped = read("shp", weak, COMMENTS, COMMENTS | {"human_ref_B": "third"})
    assert [row["rejected"] for row in rows] == ["It does that."]
    assert dropped == {"repeated": 1, FILTERS["shp"]: 1}


def test_ids_of_published_data_sets_are_kept():
    assert [read(word, ROWS[word][0])[0][0]["prompt_id"] for word in ("ultrafeedback", "ultrachat")] == ["abc", "u"]


def test_an_earlier_conversation_stays_before_the_last_question():
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
    assert without_html(html) == text
