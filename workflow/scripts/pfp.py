"""Join a step's responses with their rewards and log-probabilities, and compute the PFP of each prompt."""

from pathlib import Path

from _program import run
from prefloop.core.jsonl import write_rows
from prefloop.core.progress import Summary
from prefloop.data.pfp_rows import join_step


def main(
    *, prompts: Path, generations: Path, rewards: Path, logprobs: Path, output: Path, acquired: Path | None = None
) -> Summary:
    """Write one row per prompt: its responses, the best and the worst one, and the PFP of these two.

    Args:
        prompts: The step's prompts.
        generations: The responses.
        rewards: Rewards of the responses.
        logprobs: Log-probabilities of the responses.
        output: Output path for the rows.
        acquired: acquired.jsonl, the responses that have rewards; if not given, all have.
    """
    count = write_rows(output, join_step(prompts, generations, rewards, logprobs, acquired))
    return Summary(f"{count:,} prompts", count, "prompt")


run(main)
