"""Score generations with the training feedback."""

from pathlib import Path

from _program import run
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.core.costs import CostMeter
from prefloop.core.joined_steps import keep
from prefloop.core.jsonl import check_known, read_rows, write_rows
from prefloop.core.progress import Summary
from prefloop.core.shards import Shard
from prefloop.feedback.annotate import annotate, load_feedback, with_prompt_columns
from prefloop.feedback.thinking import strip_thoughts


def main(
    *,
    prompts: Path,
    generations: Path,
    output: Path,
    cost: Path,
    feedback: FeedbackConfig,
    shard: Shard,
    chat: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Score every response.

    Args:
        prompts: The prompts that were answered.
        generations: The responses.
        output: Where the rewards are written, one row per response.
        cost: Where the cost is written.
        feedback: What scores.
        shard: Which of the batches to score; other jobs score the others.
        chat: The policy's chat.json, whose date the template of a judge or reward model prints.
        threads: CPU threads, for a reward model or judge.
    """
    meter = CostMeter("reward")
    known = {row["prompt_id"]: row for row in read_rows(prompts, ["prompt_id", "messages"])}
    required = ["prompt_id", "cluster", "response_id", "response", "component", "n_tokens"]
    responses = read_rows(generations, required)
    check_known(responses, known, prompts, generations)
    source = keep(load_feedback, feedback, threads, "feedback", chat)
    if feedback.strip_thinking:
        responses = strip_thoughts(responses)
    messages = {prompt_id: row["messages"] for prompt_id, row in known.items()}
    responses = with_prompt_columns(responses, known)
    annotated = annotate(source, messages, responses, shard, feedback.truncation_penalty)
    rows = annotated.rows
    write_rows(output, rows)
    meter.add_usage(source.usage)
    source.usage.reset()
    annotated.add_notes(meter)
    meter.write(cost)
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    mean = f"mean {sum(rewards) / len(rewards):.4g}" if rewards else "no response has a valid judgment"
    return Summary(f"{len(rows)} responses", len(rows), "response", mean, meter.seconds, annotated.warning)


run(main, joins_steps=True)
