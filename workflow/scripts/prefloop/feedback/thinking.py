"""Thoughts of reasoning models: the <think>…</think> block before a response or an answer."""

from collections.abc import Sequence

OPENING, CLOSING = "<think>", "</think>"


def without_thoughts(text: str) -> str:
    """A text without the closed block of thoughts at its start.

    The opening tag may be missing, as some chat templates write it into the prompt.
    """
    before, tag, after = text.partition(CLOSING)
    is_block = tag and OPENING not in before.lstrip().removeprefix(OPENING)
    return after.lstrip() if is_block else text


def has_open_block(text: str) -> bool:
    """Whether a text begins with a block of thoughts that never closes."""
    return text.lstrip().startswith(OPENING) and CLOSING not in text


def strip_thoughts(rows: Sequence[dict]) -> list[dict]:
    """Rows whose `response` has no closed block of thoughts. A block that never closes stays: where the response would
    begin is not known."""
    return [row | {"response": without_thoughts(row["response"])} for row in rows]


def count_open_blocks(rows: Sequence[dict]) -> int:
    """The number of rows whose `response` begins with thoughts that never end."""
    return sum(has_open_block(row["response"]) for row in rows)
