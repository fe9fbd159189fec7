"""Conversations for tests, as lists of messages."""


def asks(*turns: str) -> list[dict]:
    """A conversation of user, assistant, user, ..."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
