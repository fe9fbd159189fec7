"""Compare a policy's samples with an opponent's; the evaluator may differ from the training feedback."""

from functools import partial
from pathlib import Path

from _program import run
from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.core.costs import CostMeter
from prefloop.core.jsonl import write_rows
from prefloop.core.progress import Summary
from prefloop.feedback.evaluated_samples import outcome_summary, read_paired_samples
from prefloop.feedback.opponents import judgment_row


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
    """Score the samples and the opponent's, and decide the outcome of each sample.

    Args:
        prompts: The evaluation prompts.
        samples: The policy's samples.
        output: Output path for the judgments, one row per sample.
        cost: Output path for the cost.
        evaluator: The feedback that decides the outcome.
        feedback: The training feedback; its rewards of both samples are also written.
        opponent: Another policy's samples for the same prompts, with the same number per prompt; if not given, every
            sample is compared with the prompt's chosen response.
        tokenizer: Manifest of the model whose tokenizer counts the tokens of chosen responses.
        chat: The policy's chat.json: the format for counting tokens, and the date for judges and reward models.
        threads: CPU threads, for reward models and judges.
    """
    meter = CostMeter("compare_samples")
    paired = read_paired_samples(meter.stage, prompts, samples, opponent, tokenizer, chat, threads)
    training_rewards = [{"reward": None, "reward_opponent": None}] * len(paired.ours)
    if feedback.kind not in ("judge", "dataset"):  # these give no reward to a single response
        training_rewards = paired.evaluate(feedback, "feedback", meter).rows
    evaluated = paired.evaluate(evaluator, "evaluation.evaluator", meter)
    rows = map(partial(judgment_row, paired.several), paired.ours, paired.theirs, evaluated.rows, training_rewards)
    write_rows(output, rows)
    evaluated.add_notes(meter)
    meter.write(cost)
    return outcome_summary(evaluated, meter)


run(main)
