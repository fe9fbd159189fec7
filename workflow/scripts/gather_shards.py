"""Put the shards of a stage together."""

from pathlib import Path

from _program import run
from prefloop.core.files import read_json, write_json
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.core.progress import Summary
from prefloop.core.shards import gather_shards, sum_costs


def main(*, prompts: Path, shards: tuple[Path, ...], costs: tuple[Path, ...], output: Path, cost: Path) -> Summary:
    """Write what one shard would have written.

    Args:
        prompts: The step's prompts, whose order the rows take.
        shards: The rows of every shard.
        costs: The cost of every shard.
        output: Where all rows go.
        cost: Where the cost of all goes.
    """
    rows = gather_shards(shards, [row["prompt_id"] for row in read_rows(prompts, ["prompt_id"])])
    write_rows(output, rows)
    write_json(cost, sum_costs([read_json(path) for path in costs]))
    return Summary(f"{len(rows):,} rows from {len(shards)} shards")


run(main)
