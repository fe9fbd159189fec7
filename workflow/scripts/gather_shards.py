"""Join the shards of a stage."""

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
    """Write the same files as a stage without shards.

    Args:
        prompts: The step's prompts, which determine the order of the rows.
        shards: The rows of every shard.
        costs: The cost of every shard.
        output: Output path for all rows.
        cost: Output path for the total cost.
        features: The features of every shard.
        gathered_features: Output path for all features.
    """
    rows = gather_shards(shards, [row["prompt_id"] for row in read_rows(prompts, ["prompt_id"])])
    write_rows(output, rows)
    if gathered_features is not None:
        write_features(gathered_features, gather_features(shards, features, rows))
    write_json(cost, sum_costs([read_json(path) for path in costs]))
    return Summary(f"{len(rows):,} rows from {len(shards)} shards")


run(main)
