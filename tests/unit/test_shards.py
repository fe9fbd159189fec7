"""Shards deal out whole batches, every one once; what they made comes together as if it had been one."""

import pytest

from prefloop.batching import batches_by_length
from prefloop.feedback import dealt
from prefloop.rows import InputError, write_rows
from prefloop.shards import Shard, gathered, total_cost


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_every_batch_is_in_one_shard_and_whole(of):
    batches = batches_by_length([3, 9, 4, 4, 8, 1, 5, 5, 5], 2)
    taken = [batch for number in range(of) for batch in Shard(number, of).take(batches)]
    assert sorted(taken) == sorted(batches)


@pytest.mark.parametrize(("number", "of"), [(1, 1), (-1, 2), (0, 0)])
def test_a_shard_that_is_none_is_refused(number, of):
    with pytest.raises(InputError, match="shards count from 0"):
        Shard(number, of)


@pytest.mark.parametrize("size", [None, 4])
def test_feedback_is_asked_about_the_same_batches_in_any_number_of_shards(size):
    """By length for a model here, of prompts kept whole; for a function or a server one batch a shard."""
    prompts = {f"p{i}": [{"role": "user", "content": "?" * (7 * i % 5)}] for i in range(9)}
    rows = [{"prompt_id": p, "response_id": n, "response": "x" * n} for p in prompts for n in range(2)]
    alone = dealt(rows, prompts, size, Shard())
    shards = [dealt(rows, prompts, size, Shard(number, 4)) for number in range(4)]
    dealt_out = [batch for shard in shards for batch in shard]
    if size is None:
        assert alone == [rows]
        assert [len(shard) for shard in shards] == [1, 1, 1, 1]
    else:
        assert [batch for batch in alone if batch not in dealt_out] == []
        assert all(len(batch) <= size for batch in alone)
    everything = [row for batch in dealt_out for row in batch]
    assert len(everything) == len(rows)
    assert all(row in everything for row in rows)


def test_no_row_is_no_batch():
    rows = [{"prompt_id": "p", "response_id": 0, "response": ""}]
    assert dealt(rows, {"p": []}, None, Shard(1, 2)) == []


def row(prompt_id: str, response_id: int) -> dict:
    return {"prompt_id": prompt_id, "response_id": response_id, "reward": len(prompt_id) + response_id}


def test_rows_come_together_in_the_order_of_prompts(tmp_path):
    shards = [[row("b", 0), row("b", 1)], [], [row("c", 0), row("c", 1), row("a", 0), row("a", 1)]]
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for path, rows in zip(paths, shards, strict=True):
        write_rows(path, rows)
    expected = [row(p, n) for p in "cab" for n in (0, 1)]
    assert gathered(paths, ["c", "a", "b"]) == expected


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([row("a", 0)], "response 0 to prompt a stands in another shard too"),
        ([row("z", 0)], "response 0 to prompt z answers a prompt that was not asked"),
        ([], "no row for prompt b"),
    ],
)
def test_shards_that_do_not_fit_are_refused(tmp_path, second, message):
    write_rows(tmp_path / "0.jsonl", [row("a", 0)])
    write_rows(tmp_path / "1.jsonl", second)
    with pytest.raises(InputError, match=message):
        gathered([tmp_path / "0.jsonl", tmp_path / "1.jsonl"], ["a", "b"])


def test_costs_add_up_but_for_the_memory_of_one():
    judged = {"pairs": 2, "outcomes": {"A": 1, "B": 1}, "longer_won": [1, 2]}
    costs = [
        {"stage": "reward", "tokens_in": 5, "tokens_out": 1, "flops": 12, "seconds": 0.1, "device": "cpu"},
        {"stage": "reward", "tokens_in": 0, "tokens_out": 0, "flops": 0, "seconds": 0.2, "device": "cpu"},
        {"stage": "reward", "tokens_in": 7, "tokens_out": 2, "flops": 18, "seconds": 0.4, "device": "cpu"},
    ]
    memory = [30, 10, 40]
    costs = [cost | {"peak_memory_bytes": peak} for cost, peak in zip(costs, memory, strict=True)]
    costs[0] |= {"judge": judged}
    costs[2] |= {"judge": {"pairs": 5, "outcomes": {"A": 0, "B": 3}, "longer_won": [3, 3]}}
    assert total_cost(costs) == {
        "stage": "reward",
        "tokens_in": 12,
        "tokens_out": 3,
        "flops": 30,
        "seconds": 0.7,
        "device": "cpu",
        "peak_memory_bytes": 40,
        "judge": {"pairs": 7, "outcomes": {"A": 1, "B": 4}, "longer_won": [4, 5]},
    }
