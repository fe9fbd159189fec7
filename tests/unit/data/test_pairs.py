"""Pairs of a prompt's responses: which pairs rewards or a judge decide, and the columns of pairs."""

import numpy as np
import pytest

from prefloop.core.errors import InputError
from prefloop.data.pairs import (
    all_pairs,
    best_and_worst,
    best_worst_pairs,
    choose_pair_by,
    concatenate,
    count_identical,
    count_invalid,
    gap_filters,
    to_columns,
)
from prefloop.data.pfp_rows import pfp_row
from prefloop.methods.pairings import sweet_spot


def prompt_row(*responses: dict, prompt_id: str = "a") -> dict:
    """Return a row of pfp.jsonl with numbered responses; missing log-probabilities get default values."""
    usual = {"n_tokens": 3, "logp": -1.0, "logp_ref": -2.0}
    rows = [{"response_id": i, "response": f"response {i}"} | usual | response for i, response in enumerate(responses)]
    return pfp_row({"prompt_id": prompt_id, "cluster": 0, "messages": []}, rows)


def ids(pairs: list) -> list[tuple[int, int]]:
    return [(pair.chosen["response_id"], pair.rejected["response_id"]) for pair in pairs]


def test_pairs_of_unequal_rewards_are_formed_and_ties_counted():
    rows = [prompt_row({"reward": 1.0}, {"reward": 2.0}, {"reward": 2.0}), prompt_row({"reward": 5.0}, {"reward": 5.0})]
    pairs, undecided = all_pairs(rows)
    assert ids(pairs) == [(1, 0), (2, 0)]
    assert [pair.best_worst for pair in pairs] == [True, False]
    assert undecided == 2
    columns = to_columns(pairs, 0.1)
    assert columns["reward_chosen"].tolist() == [2.0, 2.0]
    assert columns["reward_rejected"].tolist() == [1.0, 1.0]
    assert columns["best_worst"].tolist() == [True, False]
    assert ids(best_worst_pairs(rows)) == [(1, 0)]


def judged(*rows: tuple[int, float | None, list[int], list]) -> dict:
    names = ("response_id", "reward", "beats", "judged")
    return prompt_row(*(dict(zip(names, row, strict=True)) for row in rows))


def test_preferences_of_a_judge_are_its_judgments():
    """0 beats 1 and 1 beats 2. The judgment of 0 and 2 is invalid, so they form no pair despite unequal rewards."""
    first = (0, 0.9, [1], [[1, 1.0, 0.8], [2, None, 1.0]])
    pairs, undecided = all_pairs([judged(first, (1, 0.35, [2], [[2, 0.7, 0.5]]), (2, 0.4, [], []))])
    assert ids(pairs) == [(0, 1), (1, 2)]
    assert [pair.chosen["reward"] for pair in pairs] == pytest.approx([0.9, 0.6]), "from this judgment"
    assert [pair.rejected["reward"] for pair in pairs] == pytest.approx([0.1, 0.4])
    assert undecided == 1


def test_best_and_worst_without_a_valid_judgment_form_no_pair():
    first = (0, 0.9, [1], [[1, 1.0, 0.8], [2, None, 1.0]])
    row = judged(first, (1, 0.5, [2], [[2, 0.7, 0.5]]), (2, 0.1, [], []))
    assert (row["best"], row["worst"], row["pfp"]) == (None, None, None)
    assert best_worst_pairs([row]) == []


def test_judgment_may_be_stored_with_the_losing_response():
    (pair,), _ = all_pairs([judged((0, 0.1, [], [[1, 0.0, 0.2]]), (1, 0.9, [0], []))])
    assert pair.chosen["response_id"] == 1
    assert pair.chosen["reward"] == pytest.approx(0.9)


def test_missing_judgment_raises():
    with pytest.raises(InputError, match="prompt a: no judgment of responses 0 and 1"):
        all_pairs([judged((0, 0.9, [1], []), (1, 0.1, [], []))])


def test_response_without_valid_judgment_makes_no_pair():
    first = (0, None, [], [[1, None, None], [2, None, 0.0]])
    pairs, undecided = all_pairs([judged(first, (1, 1.0, [2], [[2, 1.0, 1.0]]), (2, 0.0, [], []))])
    assert ids(pairs) == [(1, 2)]
    assert pairs[0].best_worst
    assert undecided == 2
    assert all_pairs([judged((0, None, [], [[1, None, 1.0]]), (1, None, [], []))]) == ([], 1)


def test_best_worst_pairs_are_one_per_prompt():
    row = prompt_row(*({"reward": reward, "sampler": "best_worst"} for reward in [2, 3, 1]))
    pairs, undecided = all_pairs([row])
    assert ids(pairs) == [(1, 2)]
    assert undecided == 0


def test_identical_responses_form_no_pair():
    """A preference between equal texts is left out. It is counted, but not as a tie."""
    texts, rewards = ["x", "y", "x", "x"], [1.0, 2.0, 3.0, 3.0]
    row = prompt_row(*({"response": text, "reward": r} for text, r in zip(texts, rewards, strict=True)))
    pairs, undecided = all_pairs([row])
    assert ids(pairs) == [(1, 0), (2, 1), (3, 1)]
    assert (undecided, count_identical([row])) == (1, 2)
    assert (row["best"], row["worst"], row["pfp"]) == (None, None, None), "best and worst are both x"
    assert best_worst_pairs([row]) == []


def test_judged_identical_responses_form_no_pair():
    """A judge that was asked in one order only can prefer one of two equal texts."""
    row = judged((0, 0.9, [1, 2], [[1, 1.0, 0.8], [2, 1.0, 0.8]]), (1, 0.1, [], []), (2, 0.1, [], []))
    row["responses"][1]["response"] = "response 0"
    assert ids(all_pairs([row])[0]) == [(0, 2)]
    assert count_identical([row]) == 1


def test_pairs_with_a_truncated_response_are_marked():
    """The setting pairs.drop_truncated and user metrics read this column."""
    reasons = ["stop", "length", "stop"]
    row = prompt_row(*({"reward": float(i), "finish_reason": reason} for i, reason in enumerate(reasons)))
    pairs, _ = all_pairs([row])
    assert ids(pairs) == [(1, 0), (2, 0), (2, 1)]
    assert to_columns(pairs)["truncated"].tolist() == [True, False, True]
    assert to_columns(all_pairs([prompt_row({"reward": 1.0}, {"reward": 2.0})])[0])["truncated"].tolist() == [False]


def test_preference_variance_covers_all_responses_of_a_prompt():
    """Rewards 0, log 4 and log 4 give p = 0.2, 0.2 and 0.5. The mean of (p − ½)² is (0.09 + 0.09 + 0) / 3 = 0.06."""
    row = prompt_row({"reward": 0.0}, {"reward": np.log(4)}, {"reward": np.log(4)})
    flat = prompt_row({"reward": 0.0}, {"reward": 1e-9}, prompt_id="b")
    columns = to_columns(all_pairs([row, flat])[0])
    assert columns["preference_variance"] == pytest.approx([0.06, 0.06, 0.0])
    assert to_columns(best_worst_pairs([row]))["preference_variance"] == pytest.approx([0.06]), "for the bandit, too"
    assert to_columns(all_pairs([row])[0], variance=False).keys() == columns.keys() - {"preference_variance"}
    far = prompt_row({"reward": -1000.0}, {"reward": 1000.0})
    assert to_columns(all_pairs([far])[0])["preference_variance"] == pytest.approx([0.25])


def test_preference_variance_of_a_judge_uses_valid_probabilities():
    """Probabilities 0.9 and 0.6 differ from ½ by 0.4 and 0.1: (0.16 + 0.01) / 2."""
    first = (0, 0.9, [1], [[1, 1.0, 0.8], [2, None, 1.0]])
    pairs, _ = all_pairs([judged(first, (1, 0.35, [2], [[2, 0.7, 0.5]]), (2, 0.4, [], []))])
    assert to_columns(pairs)["preference_variance"] == pytest.approx([0.085, 0.085])


def ensemble(*members: tuple[float, float]) -> dict:
    """Return a prompt with these rewards of two ensemble members, one tuple per response."""
    rows = [dict(zip(("reward_a", "reward_b"), own, strict=True)) for own in members]
    others = {"disagreement": 9.0, "reward_true": 7.0}
    return prompt_row(*(row | others | {"reward": sum(row.values()) / 2} for row in rows))


def test_gap_deviation_is_over_ensemble_members():
    """The members' gaps are 4 and 2 for the first pair, 5 and 5 for the second, 1 and 3 for the third."""
    pairs, _ = all_pairs([ensemble((5.0, 6.0), (1.0, 4.0), (0.0, 1.0))])
    assert ids(pairs) == [(0, 1), (0, 2), (1, 2)]
    assert to_columns(pairs)["gap_deviation"].tolist() == [1.0, 0.0, 1.0]
    assert to_columns(best_worst_pairs([pairs[0].prompt]))["gap_deviation"].tolist() == [0.0], "for the bandit, too"


def test_response_without_the_reward_of_a_member_raises():
    pairs, _ = all_pairs([ensemble((5.0, 6.0), (1.0, 4.0))])
    del pairs[0].rejected["reward_b"]
    with pytest.raises(InputError, match="prompt a: a response has no reward_b; make the rewards again"):
        to_columns(pairs)


def test_sum_of_sources_has_no_gap_deviation():
    responses = [{"reward": float(i), "reward_a": float(i), "reward_b": 0.0} for i in range(2)]
    assert "gap_deviation" not in to_columns(all_pairs([prompt_row(*responses)])[0])


def test_prompts_without_pairs_keep_the_gap_deviation():
    tied, decided = ensemble((1.0, 1.0), (1.0, 1.0)), ensemble((3.0, 1.0), (0.0, 0.0))
    for rows in ([tied, decided], [decided, tied]):
        columns = concatenate([to_columns(all_pairs([row])[0]) for row in rows])
        assert columns["gap_deviation"].tolist() == [1.0]
    assert concatenate([to_columns([]), to_columns([])])["reward_chosen"].size == 0


def test_pairing_gives_one_pair_per_prompt_in_any_order():
    rng = np.random.default_rng(0)
    rows = [prompt_row(*({"reward": r} for r in rng.permutation(9).tolist()), prompt_id=f"p{i}") for i in range(8)]
    choose_pair = choose_pair_by(sweet_spot, lambda prompt_id: np.random.default_rng(int(prompt_id[1:])))
    pairs, undecided = all_pairs(rows, choose_pair)
    assert undecided == 0
    assert [pair.prompt["prompt_id"] for pair in pairs] == [row["prompt_id"] for row in rows]
    assert all(pair.chosen["response_id"] == pair.prompt["best"] for pair in pairs)
    assert len({pair.rejected["reward"] for pair in pairs}) > 1
    again, _ = all_pairs(rows[::-1], choose_pair)
    assert ids(again[::-1]) == ids(pairs)


def test_pairing_forms_no_undecided_pair():
    """Best and worst have no valid judgment. A response without a reward is never drawn."""
    first = (0, 0.9, [1], [[1, 1.0, 0.8], [2, None, 1.0]])
    row = judged(first, (1, 0.5, [2], [[2, 0.7, 0.5]]), (2, 0.1, [], []))
    choose_pair = choose_pair_by(sweet_spot, lambda _: np.random.default_rng(0))
    assert choose_pair(row) == (0, 2)
    assert all_pairs([row], choose_pair)[0] == []
    row["responses"][2]["reward"] = None
    assert ids(all_pairs([row], choose_pair)[0]) == [(0, 1)]


def test_gap_filter_by_value_and_by_quantile():
    gaps = np.array([1.0, 2.0, 3.0, 4.0])
    kept = gap_filters(gaps, 2.0, 0.5)
    assert kept["min_gap"].tolist() == [False, True, True, True]
    assert kept["min_gap_quantile"].tolist() == [False, False, True, True]
    assert all(keep.all() for keep in gap_filters(gaps, None, None).values())


def test_invalid_judgments_are_counted():
    """A judgment with one unusable answer is invalid; a tie is valid."""
    invalid = judged((0, None, [], [[1, None, 1.0], [2, 1.0, 0.0]]), (1, None, [], [[2, None, None]]), (2, 0.5, [], []))
    assert count_invalid([invalid, {"responses": [{"response_id": 0, "reward": 1.0}]}]) == 2


def test_pairs_that_were_not_compared_do_not_count_as_undecided():
    """Three of six pairs were compared, and one of them is a tie."""
    row = judged(
        (0, 0.7, [1], [[1, 0.9, 0.9], [2, 0.5, 0.5]]),
        (1, 0.1, [], []),
        (2, 0.5, [3], [[3, 0.8, 0.6]]),
        (3, 0.3, [], []),
    )
    pairs, undecided = all_pairs([row])
    assert ids(pairs) == [(0, 1), (2, 3)]
    assert undecided == 1


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ((None, "best", "worst"), (1, 2)),
        (("best", None, "worst"), None),  # not compared
        (("worst", "best", None), None),  # the judge prefers the worst
        ((None, None, None), None),
    ],
)
def test_best_and_worst_come_from_the_tournament(places, found):
    row = judged((0, 0.9, [1], [[1, 1.0, 0.8]]), (1, 0.4, [2], [[2, 0.7, 0.7]]), (2, 0.3, [], []))
    responses = [response | {"tournament": place} for response, place in zip(row["responses"], places, strict=True)]
    assert best_and_worst(responses) == found
