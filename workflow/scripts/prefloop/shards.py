"""A stage in shards: its batches are formed first and dealt out whole, so that the number of shards changes no byte."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefloop.rows import InputError, iterate_rows

Key = tuple[str, int]  # prompt_id, response_id


@dataclass
class Shard:
    """One share of a stage's batches; by default all of them."""

    number: int = 0
    """Which share, from 0."""
    of: int = 1
    """How many shares there are."""

    def __post_init__(self):
        if not 0 <= self.number < self.of:
            raise InputError(f"shard {self.number} of {self.of}: shards count from 0 to {self.of - 1}")

    def take(self, batches: Sequence) -> list:
        """Every of-th batch from this shard's number on: batches stand longest first, so shares come out alike."""
        return list(batches[self.number :: self.of])


def gathered(shards: Sequence[Path], prompts: Sequence[str]) -> list[dict]:
    """The rows of all shards in the order that one shard has: by prompt as in `prompts`, then by response_id.

    Raises InputError for a prompt without rows or not among `prompts`, and for a response that stands twice.
    """
    place = {prompt_id: i for i, prompt_id in enumerate(prompts)}
    found: dict[Key, dict] = {}
    for path in shards:
        for row in iterate_rows(path, ["prompt_id", "response_id"], may_be_empty=True):
            key = row["prompt_id"], row["response_id"]
            if key[0] not in place or key in found:
                wrong = "stands in another shard too" if key in found else "answers a prompt that was not asked"
                raise InputError(f"{path}: response {key[1]} to prompt {key[0]} {wrong}; delete the shards, run again")
            found[key] = row
    missing = place.keys() - {prompt_id for prompt_id, _ in found}
    if missing:
        raise InputError(f"{shards[0]} and others: no row for prompt {min(missing)}; delete the shards, run again")
    return [found[key] for key in sorted(found, key=lambda key: (place[key[0]], key[1]))]


def total_cost(costs: Sequence[dict]) -> dict:
    """The cost of a stage from those of its shards: amounts and seconds add up, peak memory is the largest.

    Seconds are the devices' together, as they are paid for; side by side the shards took less by the clock.
    """
    first = costs[0]
    sums = {name: add([cost[name] for cost in costs]) for name in ("tokens_in", "tokens_out", "flops", "seconds")}
    total = first | sums | {"peak_memory_bytes": max(cost["peak_memory_bytes"] for cost in costs)}
    total["seconds"] = round(total["seconds"], 3)
    judged = [cost["judge"] for cost in costs if "judge" in cost]  # a shard without a batch asked nothing
    if judged:
        total["judge"] = add(judged)
    return total


def add(parts: Sequence):
    """The sum of numbers, or of lists and mappings of numbers place by place."""
    if isinstance(parts[0], dict):
        return {name: add([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], list):
        return [add(column) for column in zip(*parts, strict=True)]
    return sum(parts)
