"""Training pairs of a reward model: halves and splits do not share conversations."""

import numpy as np
import pytest

from conversations import asks
from prefloop.core.errors import InputError
from prefloop.training.reward_pairs import select_half, split_by_conversation


def numbered(conversations: int, each: int) -> list[dict]:
    """Return rows of conversations, each with `each` continuations after the same first message."""
    return [
        {"messages": asks(f"question {c}", *[f"so {i}", "and?"][: 2 * (i > 0)]), "row": (c, i)}
        for i in range(each)
        for c in range(conversations)
    ]


def test_halves_do_not_share_conversations():
    rows = numbered(40, 3)
    first, second = select_half(rows, "first"), select_half(rows, "second")
    assert select_half(rows, "all") == rows
    assert sorted(row["row"] for row in first + second) == sorted(row["row"] for row in rows)
    halves = [{row["row"][0] for row in half} for half in (first, second)]
    assert not halves[0] & halves[1]
    assert [len(half) for half in (first, second)] == [3 * len(openings) for openings in halves]
    assert all(10 < len(openings) < 30 for openings in halves)
    assert select_half(rows[::-1], "first") == first[::-1], "the half must not depend on the other rows"
    assert select_half(rows[:30], "first") == [row for row in first if row in rows[:30]]


def test_system_message_does_not_identify_a_conversation():
    """All prompts of a data set may have the same system message."""
    system = {"role": "system", "content": "be good"}
    rows = numbered(20, 1)
    before = [row | {"messages": [system, *row["messages"]]} for row in rows]
    assert [row["row"] for row in select_half(before, "first")] == [row["row"] for row in select_half(rows, "first")]


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.5, 5), (0.01, 1)])
def test_split_does_not_share_conversations(share, count):
    rows = numbered(10, 3)
    training, unseen = split_by_conversation(rows, share, np.random.default_rng(0))
    assert sorted(row["row"] for row in training + unseen) == sorted(row["row"] for row in rows)
    sides = [{row["row"][0] for row in side} for side in (training, unseen)]
    assert not sides[0] & sides[1]
    assert (len(sides[1]), len(unseen)) == (count, 3 * count)
    others = [split_by_conversation(rows, share, np.random.default_rng(seed))[1] for seed in range(5)]
    assert any(other != unseen for other in others)


def test_one_conversation_raises():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"3 pair\(s\) in 1 conversation\(s\): at least two conversations are needed"):
        split_by_conversation(numbered(1, 3), 0.2, rng)
    with pytest.raises(InputError, match=r"0 pair\(s\)"):
        split_by_conversation([], 0.2, rng)


def test_two_conversations_are_split():
    """For any fraction, at least one conversation is left for training."""
    training, unseen = split_by_conversation(numbered(2, 1), 0.8, np.random.default_rng(0))
    assert (len(training), len(unseen)) == (1, 1)
