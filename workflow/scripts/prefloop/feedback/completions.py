"""Reading chat completions, the response bodies of a judge's server."""

from typing import Any

from prefloop.core.files import parse_json

MAX_TOKENS = 2**53  # largest integer that every JSON reader represents exactly


def read_completion(body: str) -> dict:
    """The `answer`, token counts and `finish_reason` of a chat completion. Without text, the answer is empty.

    `has_reasoning` is set if the server returned thoughts in a separate field.

    Raises:
        ValueError: The body is not a chat completion.
    """
    try:
        completion = parse_json(body)
        choice, usage = completion["choices"][0], completion.get("usage") or {}
        message = choice["message"]
        answer = content_text(message.get("content"))  # some servers omit it if the answer is empty
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        counts = {name: token_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError("no chat completion") from error
    ended = {"finish_reason": "length" if choice.get("finish_reason") == "length" else "stop"}
    return {"answer": answer, **counts} | ended | ({"has_reasoning": True} if reasoning else {})


def content_text(content: str | list[dict] | None) -> str:
    """The text of a message. Some servers return it in parts, of which thoughts are left out."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | None):
        raise ValueError("content is not text")
    return without_surrogates(content or "")


def without_surrogates(text: str) -> str:
    """The text with question marks instead of lone surrogates, which UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()


def token_count(value: Any) -> int:
    """A token count from a server, clamped to 0 … MAX_TOKENS; 0 if it is not a number."""
    is_number = isinstance(value, int | float) and value == value
    return int(min(max(value, 0), MAX_TOKENS)) if is_number else 0
