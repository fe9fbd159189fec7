"""Score generations with the feedback that trains."""

from pathlib import Path

from _program import run
from prefloop.costs import CostMeter
from prefloop.feedback import FEEDBACK, Settings, rewards_of
from prefloop.rows import read_rows, write_rows


def main(*, prompts: Path, generations: Path, output: Path, cost: Path, feedback: Settings, threads: int = 1) -> None:
    """Score every response.

    Args:
        prompts: The prompts that were answered.
        generations: The responses.
        output: Where the rewards go, one row a response.
        cost: Where the cost goes.
        feedback: Who scores.
        threads: CPU threads, for a reward model.
    """
    meter = CostMeter("reward")
    messages = {row["prompt_id"]: row["messages"] for row in read_rows(prompts, ["prompt_id", "messages"])}
    rows = read_rows(generations, ["prompt_id", "cluster", "response_id", "response"])
    score = FEEDBACK[feedback.kind](feedback, threads)
    rewards = rewards_of(
        score,
        [messages[row["prompt_id"]] for row in rows],
        [row["response"] for row in rows],
        [(row["prompt_id"], row["response_id"]) for row in rows],
    )
    fields = ("prompt_id", "cluster", "response_id")
    write_rows(output, ({f: row[f] for f in fields} | {"reward": r} for row, r in zip(rows, rewards, strict=True)))
    print(f"reward: {len(rows)} responses, mean {sum(rewards) / len(rewards):.4g}")
    meter.feedback(score)
    meter.write(cost)


run(main)
