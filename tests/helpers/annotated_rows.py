"""Conversations and responses as rows, for tests of feedback."""


def asks(text: str) -> list[dict]:
    """Return a conversation with one user message."""
    return [{"role": "user", "content": text}]


def answer(prompt_id: str, response_id: int, response: str, component: str = "policy", n_tokens: int = 1) -> dict:
    """Return a row of generations.jsonl."""
    return {
        "prompt_id": prompt_id,
        "cluster": 0,
        "response_id": response_id,
        "response": response,
        "component": component,
        "n_tokens": n_tokens,
    }
