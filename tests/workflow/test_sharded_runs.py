"""The number of shards does not change a byte of the outputs."""

import json

import pytest

import tiny
from conftest import Workdir

METHODS = {
    "mixture": {"generation": {"sampler": "mixp"}, "feedback": {"kind": "reward_model", "batch_size": 8}},
    "given": {"feedback": {"kind": "sum", "noise": {"kind": "bradley_terry"}}},
}


@pytest.fixture
def ran(tmp_path, model_folders):
    """Return a function that runs with a number of shards and returns rows and costs by path."""
    reward_model = tiny.make_reward_model(tmp_path / "reward_model")

    def run(shards: int) -> tuple[dict[str, bytes], dict[str, dict]]:
        folder = tmp_path / f"shards-{shards}"
        folder.mkdir()
        directory = Workdir(folder, model_folders["llama"])
        METHODS["mixture"]["feedback"]["model"] = str(reward_model)
        model = {"kind": "reward_model", "model": str(reward_model), "batch_size": 8}
        METHODS["given"]["feedback"]["sources"] = [{"function": "rewards:vowels"}, model]
        directory.configure(methods=METHODS, compare=list(METHODS), shards=shards, steps=1)
        # With batches of two prompts, a step has two batches, fewer than the three shards.
        directory.configure(generation={"n": 4, "batch_size": 8}, logprobs={"batch_size": 8})
        done = directory.run(*(f"results/tiny/{method}/seed-0/round-2/training.jsonl" for method in METHODS))
        assert done.returncode == 0, done.stdout
        results = folder / "results/tiny"
        rows = {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*.jsonl")}
        costs = {str(path.relative_to(results)): json.loads(path.read_text()) for path in results.rglob("*.cost.json")}
        return rows, costs

    return run


def test_shards_give_the_same_bytes(ran):
    """One and three shards agree for mixed models, a reward model and a noisy sum."""
    alone, cost = ran(1)
    many, costs = ran(3)
    assert alone == many  # this includes that files of shards are deleted
    assert costs.keys() == cost.keys()
    for path, counted in costs.items():
        for amount in ("tokens_in", "tokens_out", "flops"):
            assert counted[amount] == cost[path][amount], (path, amount)
