"""pfp.jsonl joins a step's files into one row per prompt and adds the preference perplexity."""

import tracemalloc

import numpy as np
import pytest

from prefloop.core.errors import InputError
from prefloop.core.jsonl import iterate_rows, read_rows, write_rows
from prefloop.data.pairs import all_pairs, count_invalid
from prefloop.data.pfp_rows import BATCH, PROMPT_FIELDS, in_batches, join_step, pfp_row, read_joined
from prefloop.methods.pair_metrics import METRICS
from steps import write_step

FILES = ("prompts", "generations", "rewards", "logprobs")
RESPONSES = [  # prompt_id, response_id, reward, n_tokens, logp
    ("a", 0, 1.0, 3, -4.0),
    ("a", 1, 2.0, 4, -9.0),
    ("a", 2, 2.0, 5, -7.0),
    ("b", 0, 5.0, 2, -1.0),
    ("b", 1, 5.0, 2, -2.0),
]
NAMES = ("prompt_id", "response_id", "reward", "n_tokens", "logp")
ROWS = [dict(zip(NAMES, row, strict=True)) | {"response": f"response {row[1]}"} for row in RESPONSES]


def joined(folder) -> list[dict]:
    return list(join_step(*(folder / f"{name}.jsonl" for name in FILES)))


def test_row_has_a_prompt_with_its_responses_and_pfp(tmp_path):
    """For prompt a, the first best response is 1 and the worst 0, so PFP is −4 + 9. Prompt b is tied."""
    write_step(tmp_path, [row | {"finish_reason": "stop", "cluster": 7} for row in ROWS])
    a, b = read_rows(tmp_path / "pfp.jsonl", PROMPT_FIELDS)
    assert (a["prompt_id"], a["cluster"], a["messages"]) == ("a", 7, [{"role": "user", "content": "a?"}])
    assert (a["best"], a["worst"], a["pfp"]) == (1, 0, 5.0)
    assert (b["best"], b["worst"], b["pfp"]) == (None, None, None)
    assert a["responses"][2] == {
        "response_id": 2,
        "reward": 2.0,
        "n_tokens": 5,
        "logp": -7.0,
        "logp_ref": -1.0,
        "response": "response 2",
        "token_ids": [],
        "sampler": "policy",
        "component": "policy",
        "finish_reason": "stop",
    }
    assert [len(row["responses"]) for row in (a, b)] == [3, 2]


def test_pfp_equals_the_metric_pfp_of_the_pair():
    rng = np.random.default_rng(0)
    for _ in range(20):
        responses = [row | {"reward": rng.normal(), "logp": -rng.gamma(9, 9), "logp_ref": 0.0} for row in ROWS[:3]]
        row = pfp_row({"prompt_id": "a", "cluster": 0, "messages": []}, responses)
        ordered = sorted(row["responses"], key=lambda response: response["reward"])
        assert (row["worst"], row["best"]) == (ordered[0]["response_id"], ordered[-1]["response_id"])
        columns = {"logp_rejected": np.array([ordered[0]["logp"]]), "logp_chosen": np.array([ordered[-1]["logp"]])}
        assert [row["pfp"]] == METRICS["pfp"](columns, rng).tolist()


def test_judgments_are_kept(tmp_path):
    """Response 1 has the higher reward, but the only judgment is invalid, so there is no pair."""
    rows = [row | {"beats": [], "judged": judged} for row, judged in zip(ROWS, [[[1, None, 1.0]], []], strict=False)]
    write_step(tmp_path, rows)
    (row,) = joined(tmp_path)
    assert row["responses"][0]["judged"] == [[1, None, 1.0]] and row["responses"][0]["beats"] == []
    assert (row["best"], row["worst"], row["pfp"]) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "order", "message"),
    [
        ("rewards", [0, 2, 1, 3, 4], r"rewards\.jsonl: expected prompt a, response 1 next.*found prompt a, response 2"),
        ("logprobs", [0, 1, 2, 3], r"logprobs\.jsonl: expected prompt b, response 1 next.*found the file's end"),
        ("logprobs", [0, 1, 2, 3, 4, 4], r"logprobs\.jsonl: prompt b, response 1 is not in .*generations\.jsonl"),
        ("generations", [3, 4, 0, 1, 2], r"prompts\.jsonl: expected prompt b next.*found prompt a"),
        ("generations", [0, 1, 3, 4, 2], r"prompts\.jsonl: expected prompt a next.*found the file's end"),
    ],
)
def test_files_that_do_not_match_raise(tmp_path, name, order, message):
    orders = {other: order for other in FILES[1:]} if name == "generations" else {name: order}
    write_step(tmp_path, ROWS, orders=orders)
    with pytest.raises(InputError, match=message):
        joined(tmp_path)


def test_prompt_without_response_raises(tmp_path):
    write_step(tmp_path, ROWS, orders={name: [0, 1, 2] for name in FILES[1:]})
    with pytest.raises(InputError, match=r"prompts\.jsonl: prompt b is not in .*generations\.jsonl"):
        joined(tmp_path)


@pytest.mark.parametrize(("name", "field"), [("rewards", "reward"), ("logprobs", "logp"), ("logprobs", "n_tokens")])
def test_text_in_place_of_a_number_raises(tmp_path, name, field):
    write_step(tmp_path, ROWS)
    rows = read_rows(tmp_path / f"{name}.jsonl")
    write_rows(tmp_path / f"{name}.jsonl", [row | {field: "high"} for row in rows])
    with pytest.raises(InputError, match=rf'{name}\.jsonl, line 1: {field} is "high", expected a'):
        joined(tmp_path)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Only a batch is in memory at a time: with four times the rows, the peak grows by less than a fifth."""
    peaks, token_ids = [], list(range(1000, 1200))
    for prompts in (10 * BATCH, 40 * BATCH):
        keys = [{"prompt_id": f"p{i}", "response_id": j} for i in range(prompts) for j in range(3)]
        scores = {"reward": 1.0, "n_tokens": 200, "logp": -1.0}
        write_step(tmp_path, (key | scores | {"token_ids": token_ids} for key in keys))
        tracemalloc.start()
        write_rows(tmp_path / "again.jsonl", join_step(*(tmp_path / f"{name}.jsonl" for name in FILES)))
        for batch in in_batches(iterate_rows(tmp_path / "pfp.jsonl", PROMPT_FIELDS)):
            assert len(batch) <= BATCH
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_acquired_responses_have_rewards_and_the_others_are_unlabeled(tmp_path):
    """Response 1 of prompt a has no label. Prompt b is left out because none of its responses has one."""
    rewards = [{"prompt_id": "a", "cluster": 0, "response_id": number, "reward": float(number)} for number in (0, 2)]
    write_step(tmp_path, ROWS)
    write_rows(tmp_path / "rewards.jsonl", rewards)
    write_rows(tmp_path / "acquired.jsonl", rewards)
    (row,) = join_step(*(tmp_path / f"{name}.jsonl" for name in FILES), tmp_path / "acquired.jsonl")
    assert (row["prompt_id"], row["best"], row["worst"], row["pfp"]) == ("a", 2, 0, 3.0)
    assert [response["reward"] for response in row["responses"]] == [0.0, None, 2.0]
    assert [response.get("labeled") for response in row["responses"]] == [None, False, None]
    write_rows(tmp_path / "pfp.jsonl", [row])
    ((_, read),) = read_joined(tmp_path / "pfp.jsonl")
    pairs, undecided = all_pairs([read])
    assert [(pair.chosen["response_id"], pair.rejected["response_id"]) for pair in pairs] == [(2, 0)]
    assert undecided == 0


def test_unlabeled_responses_of_a_judge_beat_none(tmp_path):
    rewards = [
        {"prompt_id": "a", "cluster": 0, "response_id": 1, "reward": 0.5, "beats": [], "judged": [[2, None, 0.5]]},
        {"prompt_id": "a", "cluster": 0, "response_id": 2, "reward": None, "beats": [], "judged": []},
    ]
    write_step(tmp_path, ROWS[:3])
    write_rows(tmp_path / "rewards.jsonl", rewards)
    write_rows(tmp_path / "acquired.jsonl", rewards)
    (row,) = join_step(*(tmp_path / f"{name}.jsonl" for name in FILES), tmp_path / "acquired.jsonl")
    assert (row["responses"][0]["beats"], row["responses"][0]["judged"]) == ([], [])
    assert all_pairs([row]) == ([], 1)
    assert count_invalid([row]) == 1


@pytest.mark.parametrize(
    ("acquired", "rewards", "message"),
    [
        ([0, 1], [0], "rewards.jsonl: expected prompt a, response 1 next"),
        ([0], [0, 1], "rewards.jsonl: prompt a, response 1 is not in"),
        ([0, 7], [0], "acquired.jsonl: prompt a, response 7 is not in"),
    ],
)
def test_rewards_that_do_not_match_acquired_responses_raise(tmp_path, acquired, rewards, message):
    write_step(tmp_path, ROWS)
    for name, numbers in (("acquired", acquired), ("rewards", rewards)):
        rows = [{"prompt_id": "a", "cluster": 0, "response_id": number, "reward": 1.0} for number in numbers]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    with pytest.raises(InputError, match=message):
        list(join_step(*(tmp_path / f"{name}.jsonl" for name in FILES), tmp_path / "acquired.jsonl"))
