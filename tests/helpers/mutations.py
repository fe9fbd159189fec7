"""Random mutations of valid data: values replaced, deleted, wrapped, renamed, repeated or cut.

`mutated(tree)` is a hypothesis strategy. Some values cannot be written with `json.dumps` or are not plain values
(`HUGE`). Their placeholders are replaced at the end, by `as_json` in a text and by `as_objects` in a tree.
"""

import copy
import datetime
import functools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from limits import limited

DIGITS, NAN, INFINITY = "@digits", "@nan", "@infinity"
DEEP = {"@deep": 5000, "@deeper": 300}  # depths of nested lists
HUGE = {DIGITS: "9" * 5000, NAN: "NaN", INFINITY: "-Infinity"}
HUGE |= {word: "[" * depth + "]" * depth for word, depth in DEEP.items()}
DATE = datetime.date(2024, 1, 1)
YAML_KEYS = {"2024-01-01": DATE, "null": None, "true": True, "0": 0, "1e5": 1e5}  # keys that YAML converts
NUMBERS = [None, True, False, 0, 1, -1, 2, 0.5, -3.7, 1e308, 2**63, -(10**30)]
WORDS = ["", " ", "\n", "\t", "null", "true", "1e5", "5e-7", "-1", "0", "x" * 3000]
WORDS += ["user", "system", "assistant", "tool", "length", "stop", "temperature", "all", "packaged", "trained:x"]
ODD = ["\ud800", "\x00", "\x1b[31m", "\u202e", "\ufeff", "\u2028", "é", "🙂", "{", "}", "{prompt}", "{{", "<s>", "%s"]
ODD += ["'", '"', "\\", "`", "$(true)", "--flag", "# no", "a: b", "*x", "&x", "~", "..", "/", "hub:", "hub:a/b", "[1"]
ODD += ["\n\nAssistant:", "\n\nHuman: x", "<think>", "</think>", "[[A]]", "A", "B", "tie", "<p>", "<code>", "</pre>"]
ODD += ["&#0;", "pypi:x", "my.py:f", "a.b:c", "https://me:secret@x/y", "a/b@main", "C:\\x", "2024-01-01", "2024-13-01"]
SHAPES: list = [[], {}, [[]], [None], [{}], {"": None}, [1, "a"], {"role": "user"}, {"content": "x"}]
SHAPES += [[{"role": role, "content": "x"}] for role in ("user", "assistant", "system")]
SHAPES += [[{"role": "user", "content": []}], [{"type": "text", "text": "x"}], [{"type": "image", "url": "x"}]]
SHAPES += [{"from": "human", "value": "x"}]
VALUES = [*NUMBERS, *WORDS, *ODD, *SHAPES, *HUGE]


def fuzzing(examples: int) -> Callable[[Callable], Callable]:
    """Return a decorator for a property test with fixed examples, or with FUZZ_EXAMPLES random ones.

    An example that takes more than 10 seconds or 1 GiB of memory fails.
    """
    asked = os.environ.get("FUZZ_EXAMPLES")

    def decorate(test: Callable) -> Callable:
        @functools.wraps(test)
        def test_within_limits(*arguments: Any, **named: Any) -> None:
            with limited():
                test(*arguments, **named)

        how = settings(max_examples=int(asked or examples), derandomize=not asked, deadline=None, database=None)
        return how(test_within_limits)

    return decorate


def is_short_line(message: str) -> bool:
    """Return whether an error message is one printable line of a readable length."""
    return bool(message.strip()) and message.isprintable() and len(message) < 1300


def places(tree: Any) -> Iterator[tuple]:
    """Yield the path of every value in a tree; the root has the empty path."""
    yield ()
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from ((key, *path) for path in places(value))


def change(draw: st.DrawFn, value: Any) -> Any:
    """Return a value that replaces `value`."""
    how = draw(st.sampled_from(["replace", "replace", "wrap", "insert", "cut", "cut", "retype"]))
    if how == "wrap":
        return draw(st.sampled_from([[value], {"content": value}, [value, value], {"value": value, "x": None}]))
    if how == "insert" and isinstance(value, str):
        at = draw(st.integers(0, len(value)))
        return value[:at] + draw(st.sampled_from([*WORDS, *ODD])) + value[at:]
    if how == "insert" and isinstance(value, list):
        return [*value, copy.deepcopy(draw(st.sampled_from(VALUES)))]
    if how == "insert" and isinstance(value, dict):
        key = draw(st.sampled_from([*WORDS, *ODD, *value]))
        return value | {key: copy.deepcopy(draw(st.sampled_from(VALUES)))}
    if how == "cut" and isinstance(value, str | list):
        return value[draw(st.integers(0, len(value))) :] if draw(st.booleans()) else value[: len(value) // 2]
    if how == "cut" and isinstance(value, dict) and value:
        gone = draw(st.sampled_from(list(value)))
        return {key: item for key, item in value.items() if key != gone}
    if how == "retype" and isinstance(value, dict) and value:
        old, new = draw(st.sampled_from(list(value))), draw(st.sampled_from([*WORDS, *ODD]))
        return {new if key == old else key: item for key, item in value.items()}
    if how == "retype" and isinstance(value, int | float):
        return draw(st.sampled_from([str(value), float(value), -value, value * 10**6, [value]]))
    if how == "retype" and isinstance(value, list):
        return draw(
            st.sampled_from([value[::-1], tuple(value) and value[:1], {str(i): v for i, v in enumerate(value)}])
        )
    return copy.deepcopy(draw(st.sampled_from(VALUES)))


@st.composite
def mutated(draw: st.DrawFn, tree: Any) -> Any:
    """Draw a copy of a tree of dicts, lists and scalars with one to three random changes."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(tree))))
        if not path:
            tree = change(draw, tree)
            continue
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = change(draw, parent[path[-1]])
    return tree


def as_json(tree: Any) -> str:
    """Return the JSON text of a tree, with the placeholders of HUGE replaced."""
    text = json.dumps(tree)
    for word, value in HUGE.items():
        text = text.replace(f'"{word}"', value)
    return text


def as_objects(tree: Any) -> Any:
    """Return a tree in which placeholders and YAML keys are replaced by the objects they stand for."""
    if isinstance(tree, dict):
        return {YAML_KEYS.get(key, key): as_objects(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_objects(value) for value in tree]
    if isinstance(tree, str) and tree in DEEP:
        deep: list = []
        for _ in range(DEEP[tree]):
            deep = [deep]
        return deep
    special = {DIGITS: HUGE[DIGITS], NAN: float("nan"), INFINITY: float("-inf"), "2024-01-01": DATE}
    return special.get(tree, tree) if isinstance(tree, str) else tree


@st.composite
def torn(draw: st.DrawFn, text: str) -> str:
    """Draw a copy of a text in which parts are cut, repeated or replaced by odd characters."""
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        middle = draw(st.sampled_from(["", text[start:end] * 2, *WORDS, *ODD, *HUGE.values()]))
        text = text[:start] + middle + text[end:]
    return text
