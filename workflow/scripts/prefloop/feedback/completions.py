"""Chat completions, the body of a judge server's response: a short answer, or ValueError for anything else."""

from typing import Any

from prefloop.core.files import parse_json

MAX_TOKENS = 2**53  # the largest count that every reader of JSON holds exactly


def read_completion(body: str) -> dict:
    """Answer, token usage, and why the answer ended, of a chat completion. One without text is an empty answer.

    `has_reasoning` is there if the server returned thoughts in a field of their own.

    Raises:
        ValueError: The body is no chat completion.
    """
    try:
        completion = parse_json(body)
        choice, usage = completion["choices"][0], completion.get("usage") or {}
        message = choice["message"]
        answer = content_text(message["content"])
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        counts = {name: token_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError("no chat completion") from error
    ended = {"finish_reason": "length" if choice.get("finish_reason") == "length" else "stop"}
    return {"answer": answer, **counts} | ended | ({"has_reasoning": True} if reasoning else {})


def content_text(content: str | list[dict] | None) -> str:
    """The text of a message, which some servers return in parts; thoughts among them are left out."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | None):
        raise ValueError("content is no text")
    return without_surrogates(content or "")


def without_surrogates(text: str) -> str:
    """A text whose lone surrogates, which no file could hold, are question marks."""
    return text.encode(errors="replace").decode()


def token_count(value: Any) -> int:
    """A number of tokens that a server reports, from 0 to MAX_TOKENS; 0 if it is none."""
    is_number = isinstance(value, int | float) and value == value
    return int(min(max(value, 0), MAX_TOKENS)) if is_number else 0
