"""Fields of rewards.jsonl from a judge's comparisons of a prompt's responses."""

from collections.abc import Sequence
from typing import Any

from prefloop.core.jsonl import by_prompt
from prefloop.core.registry import lookup
from prefloop.core.seeds import rng_for
from prefloop.core.shards import add_counts
from prefloop.core.truncation import is_truncated
from prefloop.feedback.comparison_plans import COMPARISON_PLANS, PairsToAsk, Plan, PlanFactory
from prefloop.feedback.judgments import Judge, Judgment, Messages, judge_pairs, judge_report, shortened

KEPT = 1000  # maximum characters of a judge's answer in a row
ALL_PAIRS = PairsToAsk()


def judge_responses(
    judge: Judge,
    messages: Sequence[Messages],
    rows: Sequence[dict],
    truncation_penalty: float | None = None,
    pairs_to_ask: PairsToAsk = ALL_PAIRS,
) -> tuple[list[dict[str, Any]], list[Judgment], dict]:
    """Compare responses to the same prompt: all pairs, or those of the plan in `pairs_to_ask`.

    The judge gets the comparisons of a round for all prompts in one call.

    Returns:
        The fields of each row, the judgments, and the judge's report.
    """
    fields: list[dict[str, Any]] = [{"reward": None, "beats": [], "judged": [], "answers": []} for _ in rows]
    preferences: list[list[float]] = [[] for _ in rows]
    prompts = [PlannedPrompt(group, pairs_to_ask) for group in by_prompt(indexed(rows)).values()]
    judgments: list[Judgment] = []
    reports: list[dict] = []
    while not reports or any(prompt.pairs for prompt in prompts):
        pairs = [pair for prompt in prompts for pair in prompt.pairs]
        sides = [rows[a] for a, _ in pairs], [rows[b] for _, b in pairs]
        answers, report = compare_rows(judge, [messages[a] for a, _ in pairs], *sides, truncation_penalty)
        judgments += answers
        reports.append(report)
        winners = {}
        for (a, b), judgment in zip(pairs, answers, strict=True):
            fields[a]["judged"].append([rows[b]["response_id"], judgment.first, judgment.second])
            fields[a]["answers"].append(raw_answers(judgment))
            if judgment.preference is not None:
                preferences[a].append(judgment.preference)
                preferences[b].append(1 - judgment.preference)
            if judgment.outcome in ("A", "B"):
                winner, loser = (a, b) if judgment.outcome == "A" else (b, a)
                fields[winner]["beats"].append(rows[loser]["response_id"])
                winners[a, b] = winner
        for prompt in prompts:
            prompt.continue_with(winners)
    for row_fields, values in zip(fields, preferences, strict=True):
        row_fields["reward"] = sum(values) / len(values) if values else None
    if pairs_to_ask.plan == "best_worst_tournament":
        for prompt in prompts:
            for index in prompt.indices:
                fields[index]["tournament"] = prompt.place_of(index)
    return fields, judgments, add_counts(reports)


def indexed(rows: Sequence[dict]) -> list[dict]:
    return [{"prompt_id": row["prompt_id"], "index": i} for i, row in enumerate(rows)]


class PlannedPrompt:
    """The comparisons of a prompt, round by round."""

    def __init__(self, group: Sequence[dict], pairs_to_ask: PairsToAsk) -> None:
        self.indices = [row["index"] for row in group]
        self.pairs: list[tuple[int, int]] = []
        """Row indices of the comparisons of this round; empty after the last round."""
        self.best_worst: tuple[int, int] | None = None
        factory: PlanFactory = lookup(COMPARISON_PLANS, pairs_to_ask.plan, "judge.pairs")
        rng = rng_for(pairs_to_ask.seed, "judge_pairs", pairs_to_ask.stream, group[0]["prompt_id"])
        self.plan: Plan = factory(len(self.indices), pairs_to_ask.random_pairs, rng)
        self.advance(None)

    def continue_with(self, winners: dict[tuple[int, int], int]) -> None:
        """Plan the next round, given the winning row of each comparison that has a winner."""
        if self.pairs:
            winning_rows = [winners.get(pair) for pair in self.pairs]
            self.advance([None if row is None else self.indices.index(row) for row in winning_rows])

    def advance(self, winners: list[int | None] | None) -> None:
        try:
            pairs = next(self.plan) if winners is None else self.plan.send(winners)
            self.pairs = [(self.indices[a], self.indices[b]) for a, b in pairs]
        except StopIteration as end:
            self.pairs = []
            if end.value is not None:
                best, worst = end.value
                self.best_worst = self.indices[best], self.indices[worst]

    def place_of(self, index: int) -> str | None:
        """Result of the tournament for a row: best, worst or None."""
        return dict(zip(self.best_worst or (), ("best", "worst"), strict=False)).get(index)


def raw_answers(judgment: Judgment) -> list[list[str]]:
    """Text and problem of a judge's answers in both orders. Long texts are shortened."""
    return [[shortened(answer.text, KEPT), answer.problem] for answer in judgment.answers]


def compare_rows(
    judge: Judge,
    messages: Sequence[Messages],
    a: Sequence[dict],
    b: Sequence[dict],
    truncation_penalty: float | None = None,
) -> tuple[list[Judgment], dict]:
    """Judgments on rows `a` against rows `b`, and the judge's report.

    `truncation_penalty` is subtracted from the probability that a truncated response is better than a finished one with
    a different text. The report is about the judge's answers, without this penalty.
    """
    judgments = judge_pairs(judge, messages, [row["response"] for row in a], [row["response"] for row in b])
    report = judge_report(judgments, [row["n_tokens"] for row in a], [row["n_tokens"] for row in b])
    if truncation_penalty is not None:
        judgments = [
            judgment.shifted(truncation_penalty * (is_truncated(other) - is_truncated(row)))
            if row["response"] != other["response"]
            else judgment
            for judgment, row, other in zip(judgments, a, b, strict=True)
        ]
    return judgments, report
