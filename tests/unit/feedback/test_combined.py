"""Sums and ensembles of reward sources."""

import json
from dataclasses import replace

import pytest

import tiny
from annotated_rows import answer, asks
from prefloop.config.feedback_settings import FeedbackConfig, WeightedSource
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.shards import Shard
from prefloop.feedback.annotate import annotate, compare_responses, load_feedback
from prefloop.models.fetch import fetch

FUNCTIONS = """
def length(prompts, responses):
    return [len(response) for response in responses]

def vowels(prompts, responses):
    return [sum(letter in "aeiou" for letter in response) for response in responses]
"""
LENGTH, VOWELS = (WeightedSource(function=f"own_sources:{name}") for name in ("length", "vowels"))
PROMPTS = {"p": asks("why?"), "q": asks("how so?")}
ROWS = [answer("p", 0, "a tree"), answer("p", 1, "grass"), answer("q", 0, "aeio", n_tokens=3)]


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    (tmp_path / "own_sources.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> str:
    """The manifest of a tiny reward model."""
    root = tmp_path_factory.mktemp("reward_model")
    fetch(str(tiny.make_reward_model(root / "made")), root / "fetched")
    return str(root / "fetched/manifest.json")


def combined(kind: str, *sources: WeightedSource, key: str = "feedback"):
    return load_feedback(FeedbackConfig(kind=kind, sources=sources), 1, key)


def said(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("prompt_id", "cluster", "response_id")} for row in rows]


def test_sum_has_one_column_per_source():
    source = combined("sum", replace(LENGTH, weight=0.5), replace(VOWELS, weight=-2.0, name="open"))
    assert said(annotate(source, PROMPTS, ROWS).rows) == [
        {"reward": 0.5 * 6 - 2 * 3, "reward_length": 6.0, "reward_open": 3.0},
        {"reward": 0.5 * 5 - 2 * 1, "reward_length": 5.0, "reward_open": 1.0},
        {"reward": 0.5 * 4 - 2 * 4, "reward_length": 4.0, "reward_open": 4.0},
    ]


def test_ensemble_has_mean_and_disagreement():
    rows = said(annotate(combined("ensemble", LENGTH, VOWELS), PROMPTS, ROWS).rows)
    assert [row["reward"] for row in rows] == [4.5, 3.0, 4.0]
    assert [row["disagreement"] for row in rows] == [1.5, 2.0, 0.0]
    assert list(rows[0]) == ["reward", "reward_length", "reward_vowels", "disagreement"]


def test_penalties_are_subtracted_once_from_the_sum():
    rows = [ROWS[0] | {"finish_reason": "length"}, ROWS[1], ROWS[2]]
    source = combined("sum", LENGTH, VOWELS)
    found = said(annotate(source, PROMPTS, rows, truncation_penalty=10.0, length_penalty=0.5).rows)
    assert [row["reward"] for row in found] == [9 - 10 - 0.5, 6 - 0.5, 8 - 1.5]
    assert [row["reward_length"] for row in found] == [6.0, 5.0, 4.0]


def test_sum_can_be_the_evaluator():
    """The sum decides outcomes. Judgments do not have the columns of the sources."""
    ours, theirs = [answer("p", 0, "eau"), answer("q", 0, "x")], [answer("p", 0, "grass"), answer("q", 0, "y")]
    source = combined("sum", LENGTH, VOWELS)
    assert compare_responses(source, list(PROMPTS.values()), ours, theirs).rows == [
        {"outcome": "tie", "reward": 6.0, "reward_opponent": 6.0},
        {"outcome": "tie", "reward": 1.0, "reward_opponent": 1.0},
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_reward_model_gives_the_same_rewards_in_a_sum(reward_model, tmp_path, count):
    """Holds in batches of the model's size, in one shard and in two. The sum's cost is that of its members."""
    model = WeightedSource(kind="reward_model", model=reward_model, batch_size=2, weight=3.0)
    alone = load_feedback(FeedbackConfig(kind="reward_model", model=reward_model, batch_size=2), 1, "feedback")
    expected, found, meter = [], [], CostMeter("reward")
    for index in range(count):
        shard, source = Shard(index, count), combined("sum", LENGTH, model)
        assert source.batch_size == 2
        expected += annotate(alone, PROMPTS, ROWS, shard).rows
        found += annotate(source, PROMPTS, ROWS, shard).rows
        meter.add_usage(source.usage)
    assert [row["reward_source_2"] for row in found] == [row["reward"] for row in expected]
    for row in found:
        assert row["reward"] == pytest.approx(row["reward_length"] + 3 * row["reward_source_2"])
    meter.write(tmp_path / "cost.json")
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["tokens_in"] == alone.usage.tokens_in > 0
    assert cost["flops"] == 2 * alone.usage.parameters * alone.usage.tokens_in
    assert cost["device"] == alone.usage.device


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((), "feedback.sources: empty, but kind sum needs functions or reward models"),
        ((LENGTH, WeightedSource(kind="judge", model="x")), "feedback.sources: kind judge is not one of function, "),
        (
            (LENGTH, WeightedSource(function="own_sources:none")),
            "feedback.sources.function: module own_sources has no ",
        ),
        ((LENGTH, WeightedSource(kind="reward_model")), "feedback.sources.model: missing"),
    ],
)
def test_invalid_sources_raise_with_their_key(sources, message):
    with pytest.raises(InputError, match=message):
        combined("sum", *sources).rewards([])


def test_sum_passes_the_chat_file_to_its_members(reward_model, tmp_path, monkeypatch):
    """As without a sum, the date in a reward model's template is the policy's date."""
    seen = []
    monkeypatch.setattr("prefloop.feedback.annotate.share_date", lambda source, chat: seen.append((source, chat)))
    settings = FeedbackConfig(kind="sum", sources=(WeightedSource(kind="reward_model", model=reward_model),))
    load_feedback(settings, 1, "feedback", tmp_path / "chat.json").rewards([])
    assert [(type(source).__name__, chat) for source, chat in seen] == [
        ("WeightedSum", tmp_path / "chat.json"),
        ("RewardModel", tmp_path / "chat.json"),
    ]
