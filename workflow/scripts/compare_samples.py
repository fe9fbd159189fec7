"""Compare a policy's samples with an opponent's, by an evaluator that may differ from the training feedback."""

from functools import partial
from pathlib import Path

from _program import run
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.core.costs import CostMeter
from prefloop.core.jsonl import check_known, read_rows, write_rows
from prefloop.core.progress import Summary
from prefloop.feedback.annotate import Feedback, FeedbackRows, compare_responses, load_feedback, with_prompt_columns
from prefloop.feedback.judgments import Messages
from prefloop.feedback.opponents import RESPONSE, judgment_row, same_samples, with_chosen_responses
from prefloop.feedback.thinking import strip_thoughts


def main(
    *,
    prompts: Path,
    samples: Path,
    output: Path,
    cost: Path,
    evaluator: FeedbackConfig,
    feedback: FeedbackConfig,
    opponent: Path | None = None,
    tokenizer: Path | None = None,
    chat: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Score samples and the opponent's, and decide the outcome of each sample.

    Args:
        prompts: The evaluation prompts.
        samples: The policy's samples.
        output: Where the judgments are written, one row per sample.
        cost: Where the cost is written.
        evaluator: What decides the outcome.
        feedback: The training feedback, whose rewards of both samples are written too.
        opponent: Another policy's samples of the same prompts, as many per prompt; if not given, every sample is
            compared with the prompt's own chosen response.
        tokenizer: Manifest of the model that counts the tokens of chosen responses.
        chat: The policy's chat.json: the format in which it does, and the date for judges and reward models.
        threads: CPU threads, for reward models and judges.
    """
    meter = CostMeter("compare_samples")
    known = {row["prompt_id"]: row for row in read_rows(prompts, ["prompt_id", "messages"])}
    ours = read_rows(samples, RESPONSE)
    check_known(ours, known, prompts, samples)
    several = len({row["prompt_id"] for row in ours}) < len(ours)
    if opponent is None:
        ours, theirs = with_chosen_responses(ours, known, prompts, tokenizer, chat)
    else:
        theirs = same_samples(ours, samples, opponent)
    messages = [known[row["prompt_id"]]["messages"] for row in ours]
    sides = [with_prompt_columns(rows, known) for rows in (ours, theirs)]

    training_rewards = [{"reward": None, "reward_opponent": None}] * len(ours)
    if feedback.kind not in ("judge", "dataset"):  # these give no reward to a single response
        source = load_feedback(feedback, threads, "feedback", chat)
        training_rewards = compare(source, feedback, messages, sides, meter).rows
    source = load_feedback(evaluator, threads, "evaluation.evaluator", chat)
    evaluated = compare(source, evaluator, messages, sides, meter)
    judgments = evaluated.rows
    write_rows(output, map(partial(judgment_row, several), *sides, judgments, training_rewards))
    evaluated.add_notes(meter)
    meter.write(cost)
    words = ("win", "tie", "loss", "invalid")
    outcomes = ", ".join(f"{sum(judgment['outcome'] == word for judgment in judgments)} {word}" for word in words)
    return Summary(f"{len(ours)} samples", len(ours), "sample", outcomes, meter.seconds, evaluated.warning)


def compare(
    source: Feedback, settings: FeedbackConfig, messages: list[Messages], sides: list[list[dict]], meter: CostMeter
) -> FeedbackRows:
    """Outcomes of the first side's responses against the second's, with the cost of the feedback."""
    ours, theirs = map(strip_thoughts, sides) if settings.strip_thinking else sides
    penalties = settings.truncation_penalty, settings.length_penalty
    compared = compare_responses(source, messages, ours, theirs, *penalties)
    meter.add_usage(source.usage)
    return compared


run(main)
