"""The number of shards changes no byte of what the stages write."""

import json

import pytest

import tiny
from conftest import Workdir

METHODS = {
    "mixture": {"generation": {"sampler": "mixp"}, "feedback": {"kind": "reward_model", "batch_size": 8}},
    "given": {"feedback": {"function": "rewards:vowels", "noise": {"kind": "bradley_terry"}}},
}


@pytest.fixture
def ran(tmp_path, model_folders):
    """The rows and costs of a run with a number of shards, by path below its folder."""
    reward_model = tiny.make_reward_model(tmp_path / "reward_model")

    def run(shards: int) -> tuple[dict[str, bytes], dict[str, dict]]:
        folder = tmp_path / f"shards-{shards}"
        folder.mkdir()
        directory = Workdir(folder, model_folders["llama"])
        METHODS["mixture"]["feedback"]["model"] = str(reward_model)
        directory.configure(methods=METHODS, compare=list(METHODS), shards=shards, steps=1)
        # Batches of two prompts, so that a step's four are fewer batches than the three shards.
        directory.configure(generation={"n": 4, "batch_size": 8}, logprobs={"batch_size": 8})
        done = directory.run(*(f"results/tiny/{method}/seed-0/round-2/training.jsonl" for method in METHODS))
        assert done.returncode == 0, done.stdout
        results = folder / "results/tiny"
        rows = {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*.jsonl")}
        costs = {str(path.relative_to(results)): json.loads(path.read_text()) for path in results.rglob("*.cost.json")}
        return rows, costs

    return run


def test_shards_change_no_byte(ran):
    """Two models mixed, a reward model and a function: generated, scored and trained on in one and in three shards."""
    alone, cost = ran(1)
    many, costs = ran(3)
    assert alone == many  # the shards' own files are gone, too
    assert costs.keys() == cost.keys()
    for path, counted in costs.items():
        for amount in ("tokens_in", "tokens_out", "flops"):
            assert counted[amount] == cost[path][amount], (path, amount)
