"""Put the shards of a stage together."""

from pathlib import Path

from _program import run
from prefloop.core.files import read_json, write_json
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.core.progress import Summary
from prefloop.core.shards import gather_shards, sum_costs
from prefloop.data.feature_rows import gather_features, write_features


def main(
    *,
    prompts: Path,
    shards: tuple[Path, ...],
    costs: tuple[Path, ...],
    output: Path,
    cost: Path,
    features: tuple[Path, ...] = (),
    gathered_features: Path | None = None,
) -> Summary:
    """Write what one shard would have written.

    Args:
        prompts: The step's prompts, whose order the rows take.
        shards: The rows of every shard.
        costs: The cost of every shard.
        output: Where all rows go.
        cost: Where the cost of all goes.
        features: Features of the responses in every shard's rows.
        gathered_features: Where all features go.
    """
    rows = gather_shards(shards, [row["prompt_id"] for row in read_rows(prompts, ["prompt_id"])])
    write_rows(output, rows)
    if gathered_features is not None:
        write_features(gathered_features, gather_features(shards, features, rows))
    write_json(cost, sum_costs([read_json(path) for path in costs]))
    return Summary(f"{len(rows):,} rows from {len(shards)} shards")


run(main)
