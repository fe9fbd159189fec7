"""Shards consist of whole batches; their merged rows and costs equal those of an unsharded run."""

import pytest

from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.core.shards import Shard, gather_shards, sum_costs
from prefloop.models.batching import batches_by_length


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_batch_is_in_one_shard(count):
    batches = batches_by_length([3, 9, 4, 4, 8, 1, 5, 5, 5], 2)
    taken = [batch for index in range(count) for batch in Shard(index, count).select(batches)]
    assert sorted(taken) == sorted(batches)


@pytest.mark.parametrize(("index", "count"), [(1, 1), (-1, 2), (0, 0)])
def test_index_out_of_range_raises(index, count):
    with pytest.raises(InputError, match="shards count from 0"):
        Shard(index, count)


def row(prompt_id: str, response_id: int) -> dict:
    return {"prompt_id": prompt_id, "response_id": response_id, "reward": len(prompt_id) + response_id}


def test_rows_are_in_prompt_order(tmp_path):
    shards = [[row("b", 0), row("b", 1)], [], [row("c", 0), row("c", 1), row("a", 0), row("a", 1)]]
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for path, rows in zip(paths, shards, strict=True):
        write_rows(path, rows)
    expected = [row(p, n) for p in "cab" for n in (0, 1)]
    assert gather_shards(paths, ["c", "a", "b"]) == expected


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([row("a", 0)], "response 0 to prompt a is in another shard too"),
        ([row("z", 0)], "response 0 to prompt z answers a prompt of another step"),
        ([], "no row for prompt b"),
    ],
)
def test_inconsistent_shards_raise(tmp_path, second, message):
    write_rows(tmp_path / "0.jsonl", [row("a", 0)])
    write_rows(tmp_path / "1.jsonl", second)
    with pytest.raises(InputError, match=message):
        gather_shards([tmp_path / "0.jsonl", tmp_path / "1.jsonl"], ["a", "b"])


def test_costs_are_summed_except_peak_memory():
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
    assert sum_costs(costs) == {
        "stage": "reward",
        "tokens_in": 12,
        "tokens_out": 3,
        "flops": 30,
        "seconds": 0.7,
        "device": "cpu",
        "peak_memory_bytes": 40,
        "judge": {"pairs": 7, "outcomes": {"A": 1, "B": 4}, "longer_won": [4, 5]},
    }
    counted = [costs[1] | {"truncated": [1, 4]}, costs[1] | {"truncated": [2, 3]}]
    assert sum_costs(counted)["truncated"] == [3, 7]
    assert sum_costs([costs[1] | {"labels": 2}, costs[1] | {"labels": 3}])["labels"] == 5
