"""Rows of a judge that compares only some pairs."""

import pytest

from annotated_rows import answer, asks
from prefloop.core.costs import Usage
from prefloop.core.errors import InputError
from prefloop.core.shards import Shard
from prefloop.data.pairs import best_and_worst, decided_pairs
from prefloop.feedback.annotate import annotate, count_labels
from prefloop.feedback.answers import Answer
from prefloop.feedback.comparison_plans import PairsToAsk

TOURNAMENT = PairsToAsk("best_worst_tournament", stream="round-1/step-1")


class LongerWins:
    """Prefers the longer response; `rounds` records the number of questions per call."""

    tie_margin = 0.0

    def __init__(self, batch_size: int | None = None):
        self.batch_size, self.rounds, self.usage = batch_size, [], Usage()

    def compare(self, questions):
        self.rounds.append(len(questions))
        return [Answer(0.5 + 0.1 * ((len(a) > len(b)) - (len(a) < len(b)))) for _, a, b in questions]


def responses_of(prompts: int, responses: int) -> list[dict]:
    """Return responses of different lengths for each prompt, with ids from 10."""
    return [
        answer(f"p{p}", 10 + r, "x" * (1 + (r * (responses - 1) + p) % responses))
        for p in range(prompts)
        for r in range(responses)
    ]


def annotated(judge, rows, pairs_to_ask, shard=None):
    prompts = {row["prompt_id"]: asks(row["prompt_id"]) for row in rows}
    return annotate(judge, prompts, rows, shard, pairs_to_ask=pairs_to_ask)


def test_tournament_finds_best_and_worst():
    rows = responses_of(3, 5)
    judge = LongerWins()
    result = annotated(judge, rows, TOURNAMENT).rows
    for start in range(0, 15, 5):
        group = [row | own for row, own in zip(rows, result, strict=True)][start : start + 5]
        lengths = [len(row["response"]) for row in group]
        assert [row["tournament"] for row in group] == [{1: "worst", 5: "best"}.get(n) for n in lengths]
        assert best_and_worst(group) == (lengths.index(5), lengths.index(1))
        assert len(decided_pairs(group)) == sum(len(row["judged"]) for row in group) <= 7
    assert sum(judge.rounds) == count_labels(result)
    assert judge.rounds[0] == 2 * 2 * 3, "the first rounds of all prompts are one call"


def test_rewards_are_means_over_own_comparisons():
    rows = responses_of(2, 6)
    result = annotated(LongerWins(), rows, PairsToAsk("random_k", 3)).rows
    for prompt_id in ("p0", "p1"):
        group = {row["response_id"]: row for row in result if row["prompt_id"] == prompt_id}
        compared = [(a, b) for a, row in group.items() for b, *_ in row["judged"]]
        assert len(compared) == 3
        for response_id, row in group.items():
            against = [a + b - response_id for a, b in compared if response_id in (a, b)]
            values = [0.6 if other in row["beats"] else 0.4 for other in against]
            assert row["reward"] == (pytest.approx(sum(values) / len(values)) if values else None)
            assert "tournament" not in row


@pytest.mark.parametrize("plan", ["random_k", "best_worst_tournament"])
def test_shards_do_not_change_rows(plan):
    rows, pairs_to_ask = responses_of(7, 4), PairsToAsk(plan, 2, seed=3, stream="round-2/step-1")
    whole = annotated(LongerWins(8), rows, pairs_to_ask).rows
    parts = [annotated(LongerWins(8), rows, pairs_to_ask, Shard(i, 3)).rows for i in range(3)]
    assert sorted(map(str, whole)) == sorted(str(row) for part in parts for row in part)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"stream": "round-1/step-2"}])
def test_seed_and_stream_draw_other_pairs(changed):
    rows = responses_of(6, 4)
    first, again, other = (
        annotated(LongerWins(), rows, PairsToAsk("random_k", 2, **settings)).rows for settings in ({}, {}, changed)
    )
    assert first == again != other


def test_identical_responses_have_no_best():
    rows = [answer("p", i, "same") for i in range(4)]
    result = annotated(LongerWins(), rows, TOURNAMENT).rows
    assert {row["tournament"] for row in result} == {"best", "worst", None}
    assert best_and_worst([row | own for row, own in zip(rows, result, strict=True)]) is None


def test_unknown_plan_raises():
    with pytest.raises(InputError, match=r"judge\.pairs"):
        annotated(LongerWins(), responses_of(1, 4), PairsToAsk("nothing"))
