"""Score generations with the feedback that trains."""

from pathlib import Path

from _program import run
from prefloop.costs import CostMeter
from prefloop.feedback import Settings, annotate
from prefloop.rows import read_rows, write_rows


def main(*, prompts: Path, generations: Path, output: Path, cost: Path, feedback: Settings, threads: int = 1) -> None:
    """Score every response.

    Args:
        prompts: The prompts that were answered.
        generations: The responses.
        output: Where the rewards go, one row a response.
        cost: Where the cost goes.
        feedback: Who scores.
        threads: CPU threads, for a model that scores or judges.
    """
    meter = CostMeter("reward")
    messages = {row["prompt_id"]: row["messages"] for row in read_rows(prompts, ["prompt_id", "messages"])}
    required = ["prompt_id", "cluster", "response_id", "response", "component", "n_tokens"]
    rows = read_rows(generations, required)
    found = annotate(feedback, threads, messages, rows, meter)
    fields = ("prompt_id", "cluster", "response_id")
    write_rows(output, ({f: row[f] for f in fields} | given for row, given in zip(rows, found, strict=True)))
    rewards = [given["reward"] for given in found if given["reward"] is not None]
    mean = f"mean {sum(rewards) / len(rewards):.4g}" if rewards else "none of them decided"
    print(f"reward: {len(rows)} responses, {mean}")
    if "judge" in meter.notes:
        print(f"reward: judge {meter.notes['judge']}")
    meter.write(cost)


run(main)
