"""What a judge is asked and what its answers say of two responses; no model and no server here.

Models prefer a place as well as a response, so every pair is asked as (a, b) and as (b, a) and the two answers are
averaged. What a judge could not decide (tie) or did not answer as asked (invalid) is said so and never made into a
preference.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from prefloop.rows import InputError

Messages = list[dict]

PLACEHOLDERS = ("conversation", "response_a", "response_b")
# What a server may answer, as the probability that the response shown first is better; and how it may dress it up.
ANSWERS = {"a": 1.0, "b": 0.0, "tie": 0.5}
DRESS = r"[\s*_`\"'()\[\]{}<>.,:;!#-]"
ANSWER = re.compile(rf"{DRESS}*(?:answer{DRESS}+)?(?P<word>{'|'.join(ANSWERS)}){DRESS}*", re.IGNORECASE | re.ASCII)


class Verdict(NamedTuple):
    """What a judge says of responses a and b; None is an answer that is none."""

    first: float | None
    """Probability that a is better, asked in the order (a, b)."""
    second: float | None
    """Probability that a is better, asked in the order (b, a)."""
    tie_margin: float = 0.0
    """A probability this near to ½ prefers neither."""

    @property
    def preference(self) -> float | None:
        """Probability that a is better, both orders averaged; None if either is invalid."""
        return None if self.first is None or self.second is None else (self.first + self.second) / 2

    @property
    def outcome(self) -> str:
        """A, B, tie or invalid; two certain answers that contradict each other are a tie."""
        return "invalid" if self.preference is None else winner(self.preference, self.tie_margin)

    @property
    def flipped(self) -> bool:
        """Whether the two orders name different winners; a tie names none."""
        if self.first is None or self.second is None:
            return False
        return {winner(self.first, self.tie_margin), winner(self.second, self.tie_margin)} == {"A", "B"}


def winner(probability: float, margin: float) -> str:
    if abs(probability - 0.5) <= margin:
        return "tie"
    return "A" if probability > 0.5 else "B"


def read_template(path: Path) -> str:
    """The text of a template, which holds every placeholder; InputError if not."""
    try:
        template = Path(path).read_text(encoding="utf-8").strip()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, expected a judge's template") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error})") from error
    missing = [f"{{{name}}}" for name in PLACEHOLDERS if f"{{{name}}}" not in template]
    if missing:
        raise InputError(f"{path}: a judge's template must hold {', '.join(missing)}")
    return template


def render(template: str, conversation: Messages, response_a: str, response_b: str) -> str:
    """The template with its placeholders filled in, all at once: what a text says in braces stays as it is."""
    values = {"conversation": as_text(conversation), "response_a": response_a, "response_b": response_b}
    return re.sub(rf"\{{({'|'.join(PLACEHOLDERS)})\}}", lambda match: values[match[1]], template)


def as_text(conversation: Messages) -> str:
    """A lone user message as it is, a longer conversation with the speaker before each turn."""
    if [message["role"] for message in conversation] == ["user"]:
        return conversation[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in conversation)


def parse_answer(text: str) -> float | None:
    """Probability that the response shown first is better, of a server's answer; None unless it is A, B or tie alone.

    Case, punctuation, Markdown and a leading "Answer:" do not matter; any other word does.
    """
    match = ANSWER.fullmatch(text)
    return ANSWERS[match["word"].lower()] if match else None


def in_both_orders(
    first_wins: Callable[[list[str]], list[float | None]],
    template: str,
    prompts: Sequence[Messages],
    a: Sequence[str],
    b: Sequence[str],
    tie_margin: float = 0.0,
) -> list[Verdict]:
    """Ask `first_wins` about every pair in both orders; equal questions are asked once.

    `first_wins` takes rendered templates and returns, for each, the probability that the response shown first is
    better. Identical responses make one question, so their verdict is exactly a tie.
    """
    questions = [
        (render(template, prompt, one, other), render(template, prompt, other, one))
        for prompt, one, other in zip(prompts, a, b, strict=True)
    ]
    texts = list(dict.fromkeys(text for pair in questions for text in pair))
    answers = dict(zip(texts, first_wins(texts), strict=True))
    verdicts = []
    for ab, ba in questions:
        second = answers[ba]
        verdicts.append(Verdict(answers[ab], None if second is None else 1 - second, tie_margin))
    return verdicts


def report(verdicts: Sequence[Verdict], lengths_a: Sequence[int], lengths_b: Sequence[int]) -> dict:
    """How a judge judged: outcomes, and how much place and length had to do with them, each as [how many, of how many].

    Counts and not shares, so that those of several shards add up; `rates` makes shares of them.
    `position_flip_rate`: pairs whose orders name different winners, of those with two valid answers.
    `first_position_share`: single answers for the response shown first, of those for either.
    `longer_won`: pairs won by the longer response, of those won at all by responses of unequal length.
    """
    outcomes = {name: sum(v.outcome == name for v in verdicts) for name in ("A", "B", "tie", "invalid")}
    flips = [v.flipped for v in verdicts if v.outcome != "invalid"]
    firsts = []
    for verdict in verdicts:
        for shown_first, answer in (("A", verdict.first), ("B", verdict.second)):
            if answer is not None and (won := winner(answer, verdict.tie_margin)) != "tie":
                firsts.append(won == shown_first)
    longer = [
        (verdict.outcome == "A") == (length_a > length_b)
        for verdict, length_a, length_b in zip(verdicts, lengths_a, lengths_b, strict=True)
        if verdict.outcome in ("A", "B") and length_a != length_b
    ]
    return {
        "pairs": len(verdicts),
        "outcomes": outcomes,
        "position_flip_rate": [sum(flips), len(flips)],
        "first_position_share": [sum(firsts), len(firsts)],
        "longer_won": [sum(longer), len(longer)],
    }


def rates(report: dict) -> dict:
    """A report with each [how many, of how many] as a share, None of nothing, and the outcomes beside the rest."""
    shares = {name: pair[0] / pair[1] if pair[1] else None for name, pair in report.items() if isinstance(pair, list)}
    return {name: value for name, value in report.items() if name != "outcomes"} | shares | report["outcomes"]
