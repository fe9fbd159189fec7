"""What is subtracted from rewards whatever their source."""

from collections.abc import Sequence

from prefloop.core.truncation import is_truncated


def penalized(
    rewards: list[float], rows: Sequence[dict], truncation: float | None, length: float | None
) -> list[float]:
    """The rewards of rows of generations.jsonl, less the penalties that are not None.

    Args:
        rewards: One per row.
        rows: Rows with `n_tokens`, and `finish_reason` if they were sampled.
        truncation: Subtracted from the rewards of truncated responses.
        length: Subtracted for each token of a response.
    """
    if truncation is not None:
        rewards = [reward - truncation * is_truncated(row) for reward, row in zip(rewards, rows, strict=True)]
    if length is not None:
        rewards = [reward - length * row["n_tokens"] for reward, row in zip(rewards, rows, strict=True)]
    return rewards
