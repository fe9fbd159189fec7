"""Feedback as rows: rewards for training and outcomes for evaluation."""

from collections import Counter

import pytest

from annotated_rows import answer, asks
from prefloop.config.feedback_settings import FeedbackConfig, Judging
from prefloop.core.costs import Usage
from prefloop.core.errors import InputError
from prefloop.core.shards import Shard
from prefloop.feedback.annotate import (
    annotate,
    compare_responses,
    count_labels,
    form_batches,
    load_feedback,
)
from prefloop.feedback.answers import PROBLEMS, Answer
from prefloop.feedback.judgments import Judgment
from prefloop.feedback.reward_sources import Request

PROMPT = [{"role": "user", "content": "why?"}]
REQUESTS = [Request("p1", 0, PROMPT, "a b c"), Request("p2", 1, PROMPT, "d")]
KEY = "sk-test-9876543210-secret"
UNCLEAR = "Both replies are helpful."


def test_function_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "def words(prompts, responses):\n    return [len(r.split()) for r in responses]\n"
    )
    monkeypatch.chdir(tmp_path)
    source = load_feedback(FeedbackConfig(function="my_rewards:words"), 1, "feedback")
    assert source.rewards(REQUESTS) == [3.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FeedbackConfig(function="my_rewards"), "evaluator.function: 'my_rewards', expected module:function"),
        (FeedbackConfig(function="my_rewards:word"), "evaluator.function: module my_rewards has no word"),
        (FeedbackConfig(function="absent_module:word"), "evaluator.function: cannot import absent_module"),
        (FeedbackConfig(function="torn_rewards:words"), "evaluator.function: cannot import torn_rewards .SyntaxError"),
        (FeedbackConfig(kind="nobody"), "evaluator.kind: 'nobody' is not one of function"),
        (FeedbackConfig(kind="reward_model"), "evaluator.model: missing"),
        (FeedbackConfig(kind="judge"), "evaluator.model: missing"),
        (FeedbackConfig(kind="judge", judge=Judging(base_url="http://x/v1")), "evaluator.judge.model: missing"),
    ],
)
def test_invalid_settings_raise_with_their_key(tmp_path, monkeypatch, settings, message):
    (tmp_path / "my_rewards.py").write_text("def words(prompts, responses):\n    return [0] * len(responses)\n")
    (tmp_path / "torn_rewards.py").write_text("def words(:\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^{message}"):
        load_feedback(settings, 1, "evaluator")


def said(rows: list[dict]) -> list[dict]:
    """Return rows of annotate without the ids of their responses."""
    return [{k: v for k, v in row.items() if k not in ("prompt_id", "cluster", "response_id")} for row in rows]


def test_dataset_rewards_are_rows():
    rows = [answer("p", 0, "no", "rejected"), answer("p", 1, "yes", "chosen"), answer("q", 0, "yes", "chosen")]
    source = load_feedback(FeedbackConfig(kind="dataset"), 1, "feedback")
    annotated, report, *_ = annotate(source, {"p": asks("a"), "q": asks("b")}, rows)
    assert said(annotated) == [{"reward": 0.0}, {"reward": 1.0}, {"reward": 1.0}]
    assert [(row["prompt_id"], row["response_id"]) for row in annotated] == [("p", 0), ("p", 1), ("q", 0)]
    assert (report, source.usage) == (None, Usage())


def test_function_scores_each_response_with_its_prompt(tmp_path, monkeypatch):
    """Rewards are in the order of the rows, independent of the order of prompts."""
    (tmp_path / "own_rewards.py").write_text(
        "def score(prompts, responses):\n"
        "    return [int(p[0]['content']) + len(r) for p, r in zip(prompts, responses, strict=True)]\n"
    )
    monkeypatch.chdir(tmp_path)
    source = load_feedback(FeedbackConfig(function="own_rewards:score"), 1, "feedback")
    prompts = {"p": asks("100"), "unanswered": asks("0"), "q": asks("200")}
    rows = [answer("q", 0, "aaa"), answer("p", 0, "b"), answer("q", 1, "")]
    assert said(annotate(source, prompts, rows).rows) == [
        {"reward": 203.0},
        {"reward": 101.0},
        {"reward": 200.0},
    ]
    (tmp_path / "torn_score.py").write_text(
        "def score(prompts, responses):\n    return [float('nan')] * len(responses)\n"
    )
    with pytest.raises(InputError, match="nan for prompt q, response 0"):
        annotate(load_feedback(FeedbackConfig(function="torn_score:score"), 1, "feedback"), prompts, rows)


class StubJudge:
    """Answers with the given judgments of (response a, response b); `pairs` records the questions."""

    batch_size, tie_margin = None, 0.0

    def __init__(self, judgments: dict[tuple[str, str], Judgment]):
        self.judgments, self.pairs = judgments, []
        self.usage = Usage("server", 0, 10, 3, {"asked": 5, "cached": 6, "retried": 7})

    def compare(self, questions):
        self.pairs += questions[::2]  # the others are the same pairs in reverse order
        return [self.answer(*question[1:]) for question in questions]

    def answer(self, first: str, second: str) -> Answer:
        if (first, second) in self.judgments:
            probability = self.judgments[first, second].first
        else:
            swapped = self.judgments[second, first].second
            probability = None if swapped is None else 1 - swapped
        return Answer(probability, f"{first} or {second}?", "unclear" if probability is None else "")


def texts(*pairs: str) -> list:
    """Return the stub's valid answers about pairs of one-letter responses, in the format of `annotate`."""
    return [[[f"{a} or {b}?", ""], [f"{b} or {a}?", ""]] for a, b in pairs]


def test_judgments_become_rewards_by_hand():
    """Prompt p has a win, a tie and an invalid pair, q has one uneven win, and r has a single response."""
    judge = StubJudge(
        {
            ("x", "y"): Judgment(1.0, 1.0),  # x wins
            ("x", "z"): Judgment(1.0, 0.0),  # the orders disagree: a tie
            ("y", "z"): Judgment(None, 1.0),  # invalid, although the other order is valid
            ("u", "v"): Judgment(0.0, 0.25),  # v wins; u is better with probability (0 + ¼)/2
        }
    )
    rows = [  # prompts are mixed, and ids are not positions
        answer("p", 14, "x", n_tokens=9),
        answer("q", 3, "u", n_tokens=4),
        answer("p", 17, "y", n_tokens=2),
        answer("r", 0, "w"),
        answer("q", 8, "v", n_tokens=3),
        answer("p", 11, "z", n_tokens=1),
    ]
    prompts = {name: asks(f"about {name}") for name in "pqr"}
    annotated, report, warning, _ = annotate(judge, prompts, rows)
    assert warning == "", "only one of four is invalid"
    assert said(annotated) == [
        {"reward": 0.75, "beats": [17], "judged": [[17, 1.0, 1.0], [11, 1.0, 0.0]], "answers": texts("xy", "xz")},
        {"reward": 0.125, "beats": [], "judged": [[8, 0.0, 0.25]], "answers": texts("uv")},
        {
            "reward": 0.0,
            "beats": [],
            "judged": [[11, None, 1.0]],
            "answers": [[["y or z?", "unclear"], ["z or y?", ""]]],
        },
        {"reward": None, "beats": [], "judged": [], "answers": []},
        {"reward": 0.875, "beats": [3], "judged": [], "answers": []},
        {"reward": 0.5, "beats": [], "judged": [], "answers": []},
    ]
    assert judge.pairs == [
        ("about p", "x", "y"),
        ("about p", "x", "z"),
        ("about p", "y", "z"),
        ("about q", "u", "v"),
    ]
    assert report == {
        "pairs": 4,
        "outcomes": {"A": 1, "B": 1, "tie": 1, "invalid": 1},
        "invalid_answers": dict.fromkeys(PROBLEMS, 0) | {"unclear": 1},
        "position_flip_rate": [1, 3],
        # Wins of the response shown first: x over y, x over z, z over x, and v over u.
        "first_position_share": [4, 7],
        "longer_won": [1, 2],  # x with 9 tokens beat y with 2, and v with 3 beat u with 4
        "asked": 5,
        "cached": 6,
        "retried": 7,
    }


def test_response_without_valid_judgment_has_no_reward():
    """All pairs of the first response are invalid, so its reward is None and neither 0 nor ½."""
    judge = StubJudge(
        {("x", "y"): Judgment(None, None), ("x", "z"): Judgment(0.0, None), ("y", "z"): Judgment(0.0, 0.0)},
    )
    rows = [answer("p", i, response) for i, response in enumerate("xyz")]
    annotated = annotate(judge, {"p": asks("?")}, rows).rows
    assert [row["reward"] for row in annotated] == [None, 0.0, 1.0]
    assert [row["beats"] for row in annotated] == [[], [], [1]]


@pytest.mark.parametrize("sizes", [(1,), (2,), (5,), (1, 4, 2), (3, 3)])
def test_every_two_responses_are_compared_once(sizes):
    responses = [(f"p{p}", i, f"p{p}-{i}") for p, size in enumerate(sizes) for i in range(size)]
    everyone = [response for _, _, response in responses]
    judge = StubJudge({(a, b): Judgment(0.5, 0.5) for a in everyone for b in everyone})
    rows = sorted((answer(*row) for row in responses), key=lambda row: row["response_id"])  # prompts alternate
    prompts = {f"p{p}": asks(f"p{p}") for p in range(len(sizes))}
    annotate(judge, prompts, rows)
    for prompt, a, b in judge.pairs:
        assert a.split("-")[0] == b.split("-")[0] == prompt
    met = Counter(frozenset((a, b)) for _, a, b in judge.pairs)
    assert set(met.values()) <= {1}
    assert all(len(pair) == 2 for pair in met)
    assert len(judge.pairs) == sum(n * (n - 1) // 2 for n in sizes)


def test_compare_responses_by_function(tmp_path, monkeypatch):
    (tmp_path / "own_lengths.py").write_text(
        "def length(prompts, responses):\n    return [len(r) for r in responses]\n"
    )
    monkeypatch.chdir(tmp_path)
    ours = [answer("p", 0, "long"), answer("q", 0, "no"), answer("r", 0, "same")]
    theirs = [answer("p", 5, "no"), answer("q", 5, "long"), answer("r", 5, "size")]
    source = load_feedback(FeedbackConfig(function="own_lengths:length"), 1, "feedback")
    assert compare_responses(source, [PROMPT] * 3, ours, theirs).rows == [
        {"outcome": "win", "reward": 4.0, "reward_opponent": 2.0},
        {"outcome": "loss", "reward": 2.0, "reward_opponent": 4.0},
        {"outcome": "tie", "reward": 4.0, "reward_opponent": 4.0},
    ]


def test_compare_responses_by_judge():
    """A judge gives a preference probability instead of rewards, and None for an invalid comparison."""
    judge = StubJudge(
        {
            ("a", "A"): Judgment(1.0, 0.5),
            ("b", "B"): Judgment(0.25, 0.0),
            ("c", "C"): Judgment(0.0, 1.0),
            ("d", "D"): Judgment(1.0, None),
        }
    )
    ours = [answer(f"p{r}", 0, r, n_tokens=2) for r in "abcd"]
    theirs = [answer(f"p{r.lower()}", 0, r, n_tokens=1) for r in "ABCD"]
    rows, report, *_ = compare_responses(judge, [asks(f"p{r}") for r in "abcd"], ours, theirs)
    assert [row.pop("answers") for row in rows[:3]] == texts("aA", "bB", "cC")
    assert rows[3].pop("answers") == [["d or D?", ""], ["D or d?", "unclear"]]
    assert rows == [
        {"outcome": "win", "reward": None, "reward_opponent": None, "preference": 0.75},
        {"outcome": "loss", "reward": None, "reward_opponent": None, "preference": 0.125},
        {"outcome": "tie", "reward": None, "reward_opponent": None, "preference": 0.5},
        {"outcome": "invalid", "reward": None, "reward_opponent": None, "preference": None},
    ]
    assert judge.pairs == [("pa", "a", "A"), ("pb", "b", "B"), ("pc", "c", "C"), ("pd", "d", "D")]
    assert report["outcomes"] == {"A": 1, "B": 1, "tie": 1, "invalid": 1}
    assert (report["longer_won"], report["asked"]) == ([1, 2], 5)


TRUNCATED = {"finish_reason": "length"}


def test_truncation_penalty_is_subtracted_from_rewards(tmp_path, monkeypatch):
    """Only truncated responses are penalized, in training and in evaluation."""
    (tmp_path / "own_sizes.py").write_text("def size(prompts, responses):\n    return [len(r) for r in responses]\n")
    monkeypatch.chdir(tmp_path)
    source = load_feedback(FeedbackConfig(function="own_sizes:size"), 1, "feedback")
    rows = [answer("p", 0, "four") | TRUNCATED, answer("p", 1, "six..."), answer("p", 2, "two") | TRUNCATED]
    rewards = [row["reward"] for row in annotate(source, {"p": PROMPT}, rows, truncation_penalty=2.5).rows]
    assert rewards == [1.5, 6.0, 0.5]
    assert [row["reward"] for row in annotate(source, {"p": PROMPT}, rows).rows] == [4.0, 6.0, 3.0]
    compared = compare_responses(source, [PROMPT], rows[:1], [answer("p", 5, "abc")], 2.5).rows
    assert compared == [{"outcome": "loss", "reward": 1.5, "reward_opponent": 3.0}]


def test_length_penalty_is_subtracted_per_token(tmp_path, monkeypatch):
    """Applies in training and in evaluation, in addition to the truncation penalty."""
    (tmp_path / "own_letters.py").write_text("def size(prompts, responses):\n    return [len(r) for r in responses]\n")
    monkeypatch.chdir(tmp_path)
    source = load_feedback(FeedbackConfig(function="own_letters:size"), 1, "feedback")
    rows = [answer("p", 0, "four", n_tokens=3) | TRUNCATED, answer("p", 1, "six...", n_tokens=8)]
    assert [row["reward"] for row in annotate(source, {"p": PROMPT}, rows, length_penalty=0.5).rows] == [2.5, 2.0]
    both = annotate(source, {"p": PROMPT}, rows, truncation_penalty=2.0, length_penalty=0.5).rows
    assert [row["reward"] for row in both] == [0.5, 2.0]
    compared = compare_responses(source, [PROMPT], rows[:1], rows[1:], length_penalty=0.5).rows
    assert compared == [{"outcome": "win", "reward": 2.5, "reward_opponent": 2.0}]


def test_truncation_penalty_lowers_a_judges_preference():
    """With penalty 1 the finished response wins. Pairs of truncated responses and invalid answers are not changed."""
    judge = StubJudge(
        {
            ("cut", "whole"): Judgment(1.0, 0.75),
            ("cut", "short"): Judgment(1.0, 1.0),
            ("whole", "short"): Judgment(None, 1.0),
        }
    )
    rows = [answer("p", 0, "cut") | TRUNCATED, answer("p", 1, "whole"), answer("p", 2, "short") | TRUNCATED]
    annotated, report, *_ = annotate(judge, {"p": PROMPT}, rows, truncation_penalty=1.0)
    for row in annotated:
        row.pop("answers")
    assert said(annotated) == [
        {"reward": 0.5, "beats": [2], "judged": [[1, 0.0, 0.0], [2, 1.0, 1.0]]},
        {"reward": 1.0, "beats": [0], "judged": [[2, None, 1.0]]},
        {"reward": 0.0, "beats": [], "judged": []},
    ]
    assert report["outcomes"] == {"A": 2, "B": 0, "tie": 0, "invalid": 1}, "outcomes without the penalty"
    quarter = compare_responses(judge, [PROMPT], rows[:1], rows[1:2], 0.25).rows
    assert [(row["outcome"], row["preference"]) for row in quarter] == [("win", 0.625)]


def test_identical_responses_tie_in_evaluation():
    """Holds even if equal texts have different rewards or one of them is truncated."""

    class Noisy:
        batch_size, usage = None, Usage()

        def rewards(self, requests):
            return [float(len(r.prompt_id)) for r in requests]

    ours, theirs = [answer("a", 0, "x") | TRUNCATED], [answer("aa", 0, "x")]
    assert compare_responses(Noisy(), [PROMPT], ours, theirs, 1.0).rows == [
        {"outcome": "tie", "reward": 0.0, "reward_opponent": 2.0}
    ]
    judge = StubJudge({("x", "x"): Judgment(0.5, 0.5)})
    assert compare_responses(judge, [PROMPT], ours, theirs, 1.0).rows[0]["outcome"] == "tie"


@pytest.mark.parametrize("size", [None, 4])
def test_batches_do_not_depend_on_shards(size):
    """With a batch size, batches are formed by length and responses of a prompt stay together.

    Without a batch size, there is one batch per shard.
    """
    prompts = {f"p{i}": [{"role": "user", "content": "?" * (7 * i % 5)}] for i in range(9)}
    rows = [{"prompt_id": p, "response_id": n, "response": "x" * n} for p in prompts for n in range(2)]
    alone = form_batches(rows, prompts, size, Shard())
    shards = [form_batches(rows, prompts, size, Shard(index, 4)) for index in range(4)]
    sharded = [batch for shard in shards for batch in shard]
    if size is None:
        assert alone == [rows]
        assert [len(shard) for shard in shards] == [1, 1, 1, 1]
    else:
        assert [batch for batch in alone if batch not in sharded] == []
        assert all(len(batch) <= size for batch in alone)
    everything = [row for batch in sharded for row in batch]
    assert len(everything) == len(rows)
    assert all(row in everything for row in rows)


def test_shard_without_rows_has_no_batch():
    rows = [{"prompt_id": "p", "response_id": 0, "response": ""}]
    assert form_batches(rows, {"p": []}, None, Shard(1, 2)) == []


def test_labels_are_responses_or_questions():
    """Three rewarded responses are three labels. Two judged pairs, asked in both orders, are four."""
    assert count_labels([{"reward": 1.0}] * 3) == 3
    judged = [{"judged": [[1, 0.5, 0.5], [2, None, 0.5]]}, {"judged": []}, {"judged": []}]
    assert count_labels(judged) == 4
