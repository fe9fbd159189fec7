"""Judgments on pairs of responses: questions, answers and their average over both orders.

Language models have a position bias, so every pair is shown in both orders and the two answers are averaged. An
undecided pair is a tie, and an unusable answer is invalid. Neither becomes a preference.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from prefloop.core.costs import Usage
from prefloop.core.errors import InputError
from prefloop.core.files import find_file
from prefloop.feedback.answers import PROBLEMS, Answer

Messages = list[dict]


class Question(NamedTuple):
    """Two responses to a conversation, in the order shown to the judge."""

    conversation: str
    response_a: str
    response_b: str


@runtime_checkable
class Judge(Protocol):
    """Decides which of two responses to a conversation is better."""

    batch_size: int | None
    """Questions per batch; None if it accepts any number."""
    tie_margin: float
    """Probabilities at most this far from 0.5 are ties."""
    usage: Usage
    """Total usage so far."""

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question."""


PLACEHOLDERS = ("conversation", "response_a", "response_b")
SHOWN = 200  # maximum characters of an answer in a warning


@dataclass(frozen=True)
class Judgment:
    """A judge's answers about responses a and b."""

    first: float | None
    """Probability that a is better if shown in the order (a, b); None if the answer is invalid."""
    second: float | None
    """Probability that a is better if shown in the order (b, a); None if the answer is invalid."""
    tie_margin: float = 0.0
    """Probabilities at most this far from 0.5 are ties."""
    answers: tuple[Answer, ...] = field(default=(), compare=False)
    """The judge's answers in both orders."""

    @property
    def preference(self) -> float | None:
        """Probability that a is better, averaged over both orders; None if either answer is invalid."""
        return None if self.first is None or self.second is None else (self.first + self.second) / 2

    @property
    def outcome(self) -> str:
        """A, B, tie or invalid. Two confident answers that contradict each other are a tie."""
        return "invalid" if self.preference is None else outcome_of(self.preference, self.tie_margin)

    def shifted(self, amount: float) -> "Judgment":
        """The judgment with `amount` added to both probabilities, clipped to [0, 1]."""
        first, second = (p if p is None else min(max(p + amount, 0.0), 1.0) for p in (self.first, self.second))
        return replace(self, first=first, second=second)

    @property
    def flipped(self) -> bool:
        """Whether the answers in the two orders name different winners. A tie names no winner."""
        if self.first is None or self.second is None:
            return False
        return {outcome_of(self.first, self.tie_margin), outcome_of(self.second, self.tie_margin)} == {"A", "B"}


def outcome_of(probability: float, tie_margin: float) -> str:
    """A, B or tie, for the probability that A is better."""
    if abs(probability - 0.5) <= tie_margin:
        return "tie"
    return "A" if probability > 0.5 else "B"


def read_template(path: Path) -> str:
    """The text of a judge's template.

    Raises:
        InputError: The file is missing, is not UTF-8, or lacks a placeholder.
    """
    try:
        template = find_file(path).read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected a judge's template") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    missing = [f"{{{name}}}" for name in PLACEHOLDERS if f"{{{name}}}" not in template]
    if missing:
        raise InputError(f"{path}: a judge's template must contain {', '.join(missing)}")
    return template


def render(template: str, question: Question) -> str:
    """Fill in a template's placeholders in one pass, so that braces in the texts stay unchanged."""
    values = question._asdict()
    return re.sub(rf"\{{({'|'.join(PLACEHOLDERS)})\}}", lambda match: values[match[1]], template)


def as_text(conversation: Messages) -> str:
    """A conversation as text: a single user message unchanged, or all turns with their roles in front."""
    if [message["role"] for message in conversation] == ["user"]:
        return conversation[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in conversation)


def judge_pairs(judge: Judge, prompts: Sequence[Messages], a: Sequence[str], b: Sequence[str]) -> list[Judgment]:
    """Ask about every pair of responses in both orders. Equal questions are asked once.

    For two identical responses both orders are the same question, so their judgment is exactly a tie.
    """
    conversations = [as_text(prompt) for prompt in prompts]
    orders = [
        (Question(conversation, text_a, text_b), Question(conversation, text_b, text_a))
        for conversation, text_a, text_b in zip(conversations, a, b, strict=True)
    ]
    questions = list(dict.fromkeys(question for order in orders for question in order))
    answers = dict(zip(questions, judge.compare(questions), strict=True))
    judgments = []
    for question, swapped in orders:
        first, second = answers[question], answers[swapped]
        of_second = None if second.probability is None else 1 - second.probability
        judgments.append(Judgment(first.probability, of_second, judge.tie_margin, (first, second)))
    return judgments


def judge_report(judgments: Sequence[Judgment], lengths_a: Sequence[int], lengths_b: Sequence[int]) -> dict:
    """Outcomes of a judge, and the influence of position and length as [count, total].

    Counts instead of rates allow reports of several shards to be added. `rates` divides them.

    Args:
        judgments: One judgment per pair.
        lengths_a: Tokens of each response a.
        lengths_b: Tokens of each response b.

    Returns:
        `pairs`, `outcomes`, `invalid_answers` by problem, and three counts. `position_flip_rate`: pairs with different
        winners in the two orders, among pairs with two valid answers. `first_position_share`: answers for the response
        shown first, among answers that are not ties. `longer_won`: pairs won by the longer response, among pairs with a
        winner and different lengths.
    """
    outcomes = {name: sum(judgment.outcome == name for judgment in judgments) for name in ("A", "B", "tie", "invalid")}
    flips = [judgment.flipped for judgment in judgments if judgment.outcome != "invalid"]
    first_wins = []
    for judgment in judgments:
        for shown_first, answer in (("A", judgment.first), ("B", judgment.second)):
            if answer is not None and (outcome := outcome_of(answer, judgment.tie_margin)) != "tie":
                first_wins.append(outcome == shown_first)
    longer_wins = [
        (judgment.outcome == "A") == (length_a > length_b)
        for judgment, length_a, length_b in zip(judgments, lengths_a, lengths_b, strict=True)
        if judgment.outcome in ("A", "B") and length_a != length_b
    ]
    problems = Counter(answer.problem for judgment in judgments for answer in judgment.answers)
    return {
        "pairs": len(judgments),
        "outcomes": outcomes,
        "invalid_answers": {problem: problems[problem] for problem in PROBLEMS},
        "position_flip_rate": [sum(flips), len(flips)],
        "first_position_share": [sum(first_wins), len(first_wins)],
        "longer_won": [sum(longer_wins), len(longer_wins)],
    }


def invalid_warning(judgments: Sequence[Judgment]) -> str:
    """One line if most judgments are invalid: number, reasons, first raw answer and remedy; else empty."""
    invalid = [answer for judgment in judgments for answer in judgment.answers if answer.problem]
    count = sum(judgment.outcome == "invalid" for judgment in judgments)
    if not invalid or 2 * count <= len(judgments):
        return ""
    problems = Counter(answer.problem for answer in invalid)
    (problem, _), *_ = problems.most_common()
    text = next(answer.text for answer in invalid if answer.problem == problem)
    listed = ", ".join(f"{number} {name}" for name, number in problems.most_common())
    return (
        f"{count} of {len(judgments)} judgments are invalid (answers: {listed}); the first answer is "
        f"{shortened(text, SHOWN)!r}; {PROBLEMS[problem]}"
    )


def shortened(text: str, length: int) -> str:
    """The text with at most `length` characters. The middle is removed, because verdicts are at the start or end."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def rates(report: dict) -> dict:
    """A judge's report with rates for [count, total] (None if the total is 0) and all counts at the top level."""
    shares = {name: pair[0] / pair[1] if pair[1] else None for name, pair in report.items() if isinstance(pair, list)}
    plain = {name: value for name, value in report.items() if name not in ("outcomes", "invalid_answers")}
    invalid = {f"invalid_{problem}": count for problem, count in report.get("invalid_answers", {}).items()}
    return plain | shares | report["outcomes"] | invalid
