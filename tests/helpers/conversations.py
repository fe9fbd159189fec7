"""Conversations for tests, as lists of messages."""


def asks(*turns: str) -> list[dict]:
    """Return a conversation with the roles user, assistant, user, ..."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
