"""Penalties that are subtracted from rewards of any source."""

from collections.abc import Sequence

from prefloop.core.truncation import is_truncated


def penalized(
    rewards: list[float], rows: Sequence[dict], truncation: float | None, length: float | None
) -> list[float]:
    """The rewards of responses minus the penalties that are not None.

    Args:
        rewards: One per row.
        rows: Rows with `n_tokens`, and `finish_reason` if the response was sampled.
        truncation: Penalty of a truncated response.
        length: Penalty per token of a response.
    """
    if truncation is not None:
        rewards = [reward - truncation * is_truncated(row) for reward, row in zip(rewards, rows, strict=True)]
    if length is not None:
        rewards = [reward - length * row["n_tokens"] for reward, row in zip(rewards, rows, strict=True)]
    return rewards
