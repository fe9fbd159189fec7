"""Thoughts of reasoning models: the <think>…</think> block before a response or an answer."""

from collections.abc import Sequence

OPENING, CLOSING = "<think>", "</think>"


def without_thoughts(text: str) -> str:
    """The text without the closed block of thoughts at its start.

    The opening tag may be missing, because some chat templates add it to the prompt.
    """
    before, tag, after = text.partition(CLOSING)
    is_block = tag and OPENING not in before.lstrip().removeprefix(OPENING)
    return after.lstrip() if is_block else text


def has_open_block(text: str) -> bool:
    """Whether the text starts with an unclosed block of thoughts."""
    return text.lstrip().startswith(OPENING) and CLOSING not in text


def strip_thoughts(rows: Sequence[dict]) -> list[dict]:
    """Rows with the closed block of thoughts removed from `response`. An unclosed block stays, because the start of the
    actual response is unknown."""
    return [row | {"response": without_thoughts(row["response"])} for row in rows]


def count_open_blocks(rows: Sequence[dict]) -> int:
    """The number of rows whose `response` starts with an unclosed block of thoughts."""
    return sum(has_open_block(row["response"]) for row in rows)
