"""Score generations with the training feedback."""

from pathlib import Path

from _program import run
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.core.costs import CostMeter
from prefloop.core.joined_steps import keep
from prefloop.core.jsonl import check_known, read_rows, write_rows
from prefloop.core.progress import Summary
from prefloop.core.shards import Shard
from prefloop.data.acquired import keep_acquired
from prefloop.feedback.annotate import annotate, count_labels, load_feedback, with_prompt_columns
from prefloop.feedback.comparison_plans import PairsToAsk
from prefloop.feedback.label_noise import add_noise
from prefloop.feedback.thinking import strip_thoughts


def main(
    *,
    prompts: Path,
    generations: Path,
    output: Path,
    cost: Path,
    feedback: FeedbackConfig,
    shard: Shard,
    acquired: Path | None = None,
    seed: int = 0,
    stream: str = "",
    chat: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Score every response, or only the acquired ones.

    Args:
        prompts: The prompts that were answered.
        generations: The responses.
        output: Output path for the rewards, one row per response.
        cost: Output path for the cost.
        feedback: The feedback that scores.
        shard: The part of the batches to score; other jobs score the rest.
        acquired: acquired.jsonl, the responses to score; all if not given.
        seed: Seed of the run, for label noise and the pairs that a judge compares.
        stream: Name of the round and step; each has its own random numbers.
        chat: The policy's chat.json; its date is used in the templates of judges and reward models.
        threads: CPU threads, for a reward model or judge.
    """
    meter = CostMeter("reward")
    known = {row["prompt_id"]: row for row in read_rows(prompts, ["prompt_id", "messages"])}
    required = ["prompt_id", "cluster", "response_id", "response", "component", "n_tokens"]
    responses = read_rows(generations, required)
    check_known(responses, known, prompts, generations)
    if acquired is not None:
        responses = keep_acquired(responses, acquired)
    source = keep(load_feedback, feedback, threads, "feedback", chat)
    if feedback.strip_thinking:
        responses = strip_thoughts(responses)
    messages = {prompt_id: row["messages"] for prompt_id, row in known.items()}
    responses = with_prompt_columns(responses, known)
    penalties = feedback.truncation_penalty, feedback.length_penalty
    pairs_to_ask = PairsToAsk(feedback.judge.pairs, feedback.judge.random_pairs, seed, stream)
    annotated = annotate(source, messages, responses, shard, *penalties, pairs_to_ask)
    rows = annotated.rows
    if feedback.noise.kind is not None:
        noise = feedback.noise.kind, feedback.noise.temperature
        rows, flipped = add_noise(rows, responses, *noise, seed, stream)
        meter.notes["flipped_labels"] = flipped
        print(f"reward: noise changes {flipped[0]} of {flipped[1]} labels")
    write_rows(output, rows)
    meter.add_usage(source.usage)
    source.usage.reset()
    annotated.add_notes(meter)
    meter.notes["labels"] = count_labels(rows)
    meter.write(cost)
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    mean = f"mean {sum(rewards) / len(rewards):.4g}" if rewards else "no response has a valid judgment"
    return Summary(f"{len(rows)} responses", len(rows), "response", mean, meter.seconds, annotated.warning)


run(main, joins_steps=True)
