"""Samples of a policy, the responses they are compared with, and the outcomes by a source of feedback."""

from dataclasses import dataclass
from pathlib import Path

from prefloop.config.feedback_settings import FeedbackConfig
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.jsonl import check_known, read_rows
from prefloop.core.progress import Summary
from prefloop.feedback.annotate import FeedbackRows, compare_responses, load_feedback, with_prompt_columns
from prefloop.feedback.judgments import Messages
from prefloop.feedback.opponents import RESPONSE, same_samples, with_chosen_responses
from prefloop.feedback.thinking import strip_thoughts

OUTCOME_WORDS = ("win", "tie", "loss", "invalid")


@dataclass
class PairedSamples:
    """Samples of a policy and of its opponent, row by row."""

    ours: list[dict]
    """Rows of the policy's samples, with the columns of their prompts that a reward function may use."""
    theirs: list[dict]
    """Rows of the responses they are compared with, with the same columns."""
    messages: list[Messages]
    """Conversation of each row."""
    several: bool
    """Whether any prompt has several samples."""
    chat: Path | None
    """The policy's chat.json."""
    threads: int
    """CPU threads, for reward models and judges."""

    def evaluate(self, settings: FeedbackConfig, key: str, meter: CostMeter) -> FeedbackRows:
        """Outcomes and rewards of our samples against the opponent's. The cost is added to `meter`.

        Args:
            settings: The feedback that evaluates.
            key: Config key of the settings, for error messages.
            meter: Cost of the stage.

        Raises:
            InputError: The feedback cannot be loaded, or it fails.
        """
        source = load_feedback(settings, self.threads, key, self.chat)
        sides = [self.ours, self.theirs]
        ours, theirs = map(strip_thoughts, sides) if settings.strip_thinking else sides
        penalties = settings.truncation_penalty, settings.length_penalty
        compared = compare_responses(source, self.messages, ours, theirs, *penalties)
        meter.add_usage(source.usage)
        return compared


def read_paired_samples(
    stage: str,
    prompts: Path,
    samples: Path,
    opponent: Path | None,
    tokenizer: Path | None,
    chat: Path | None,
    threads: int,
) -> PairedSamples:
    """Read the samples of a policy, each with the opponent's sample of the same prompt and number.

    Args:
        stage: Name of the stage, for log lines.
        prompts: The evaluation prompts.
        samples: The policy's samples.
        opponent: Another policy's samples. If None, the opponent is the chosen response of each prompt.
        tokenizer: Manifest of the model that counts the tokens of chosen responses.
        chat: The policy's chat.json.
        threads: CPU threads.

    Raises:
        InputError: A sample's prompt or an opponent's sample is missing, or no prompt has a chosen response.
    """
    known = {row["prompt_id"]: row for row in read_rows(prompts, ["prompt_id", "messages"])}
    ours = read_rows(samples, RESPONSE)
    check_known(ours, known, prompts, samples)
    several = len({row["prompt_id"] for row in ours}) < len(ours)
    if opponent is None:
        if tokenizer is None:
            raise InputError("tokenizer: missing; name it, or an opponent's samples")
        ours, theirs = with_chosen_responses(stage, ours, known, prompts, tokenizer, chat)
    else:
        theirs = same_samples(ours, samples, opponent)
    messages = [known[row["prompt_id"]]["messages"] for row in ours]
    ours, theirs = with_prompt_columns(ours, known), with_prompt_columns(theirs, known)
    return PairedSamples(ours, theirs, messages, several, chat, threads)


def outcome_summary(evaluated: FeedbackRows, meter: CostMeter) -> Summary:
    """The summary that a stage prints at its end: samples, outcomes, and a warning if most judgments are invalid."""
    judgments = evaluated.rows
    counts = (f"{sum(row['outcome'] == word for row in judgments)} {word}" for word in OUTCOME_WORDS)
    number = len(judgments)
    return Summary(f"{number} samples", number, "sample", ", ".join(counts), meter.seconds, evaluated.warning)
