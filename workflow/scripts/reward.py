"""Score generations with the feedback that trains."""

from pathlib import Path

from _program import run
from prefloop.costs import CostMeter
from prefloop.feedback import Settings, annotate
from prefloop.progress import Summary
from prefloop.rows import check_known, read_rows, write_rows
from prefloop.shards import Shard


def main(
    *,
    prompts: Path,
    generations: Path,
    output: Path,
    cost: Path,
    feedback: Settings,
    shard: Shard,
    threads: int = 1,
) -> Summary:
    """Score every response.

    Args:
        prompts: The prompts that were answered.
        generations: The responses.
        output: Where the rewards go, one row a response.
        cost: Where the cost goes.
        feedback: Who scores.
        shard: Which of the batches to score, and leave the others to other jobs.
        threads: CPU threads, for a model that scores or judges.
    """
    meter = CostMeter("reward")
    messages = {row["prompt_id"]: row["messages"] for row in read_rows(prompts, ["prompt_id", "messages"])}
    required = ["prompt_id", "cluster", "response_id", "response", "component", "n_tokens"]
    rows = read_rows(generations, required)
    check_known(rows, messages, prompts, generations)
    scored = annotate(feedback, threads, messages, rows, meter, shard)
    write_rows(output, scored)
    rewards = [row["reward"] for row in scored if row["reward"] is not None]
    mean = f"mean {sum(rewards) / len(rewards):.4g}" if rewards else "none of them decided"
    if "judge" in meter.notes:
        print(f"reward: judge {meter.notes['judge']}")
    meter.write(cost)
    return Summary(f"{len(scored)} responses", len(scored), "response", mean, meter.seconds)


run(main)
