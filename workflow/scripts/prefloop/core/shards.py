"""Sharded stages. Batches are formed before they are distributed, so results do not depend on the number of shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefloop.core.errors import InputError
from prefloop.core.jsonl import iterate_rows

T = TypeVar("T")
Key = tuple[str, int]  # prompt_id, response_id


@dataclass
class Shard:
    """One share of a stage's batches; by default all of them."""

    index: int = 0
    """Index of the share, from 0."""
    count: int = 1
    """Number of shares."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(f"shard {self.index} of {self.count}: shards count from 0 to {self.count - 1}")

    def select(self, batches: Sequence[T]) -> list[T]:
        """Return batches `index, index + count, ...`. Batches are sorted by length, so all shards get similar work."""
        return list(batches[self.index :: self.count])


def gather_shards(shards: Sequence[Path], prompt_ids: Sequence[str]) -> list[dict]:
    """Return the rows of all shards in the order of an unsharded run: by prompt, then by response_id.

    Raises:
        InputError: A prompt has no rows or is not among `prompt_ids`, or a response occurs twice.
    """
    order = {prompt_id: i for i, prompt_id in enumerate(prompt_ids)}
    rows: dict[Key, dict] = {}
    for path in shards:
        for row in iterate_rows(path, ["prompt_id", "response_id"], may_be_empty=True):
            key = row["prompt_id"], row["response_id"]
            if key[0] not in order or key in rows:
                problem = "is in another shard too" if key in rows else "answers a prompt of another step"
                raise InputError(
                    f"{path}: response {key[1]} to prompt {key[0]} {problem}; delete the shards and run again"
                )
            rows[key] = row
    missing = order.keys() - {prompt_id for prompt_id, _ in rows}
    if missing:
        raise InputError(f"{shards[0]} and others: no row for prompt {min(missing)}; delete the shards and run again")
    return [rows[key] for key in sorted(rows, key=lambda key: (order[key[0]], key[1]))]


def sum_costs(costs: Sequence[dict]) -> dict:
    """Return the cost of a stage from the costs of its shards: sums of all amounts, and the maximum of the peak memory.

    Seconds are device time. Shards that run in parallel take less wall-clock time.
    """
    sums = {
        name: add_counts([cost[name] for cost in costs]) for name in ("tokens_in", "tokens_out", "flops", "seconds")
    }
    total = costs[0] | sums | {"peak_memory_bytes": max(cost["peak_memory_bytes"] for cost in costs)}
    total["seconds"] = round(total["seconds"], 3)
    for name in ("judge", "flipped_labels", "truncated", "unfinished_thoughts", "labels"):
        counts = [cost[name] for cost in costs if name in cost]  # some shards have none
        if counts:
            total[name] = add_counts(counts)
    return total


def add_counts(parts: Sequence[Any]) -> Any:
    """Return the element-wise sum of numbers, lists of numbers, or (nested) mappings with equal keys."""
    if isinstance(parts[0], dict):
        return {name: add_counts([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], list):
        return [add_counts(column) for column in zip(*parts, strict=True)]
    return sum(parts)
