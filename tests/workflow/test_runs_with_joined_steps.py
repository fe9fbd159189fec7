"""`join_steps` runs the steps of a round in one job and gives the same bytes."""

import json
import re

import tiny
from conftest import Workdir

METHODS = {
    "mixture": {
        "bandit": {"allocation": "uniform"},
        "generation": {"sampler": "mixp", "n": 4},
        "feedback": {"kind": "reward_model", "batch_size": 8, "noise": {"kind": "bradley_terry"}},
    },
    "plain": {"bandit": {"allocation": "uniform"}, "feedback": {"function": "rewards:vowels"}},
    "choosing": {
        "bandit": {"allocation": "uniform"},
        "generation": {"n": 3},
        "feedback": {"function": "rewards:vowels"},
        "acquisition": {"rule": "delta_ucb"},
    },
    "arms": {"bandit": {"allocation": "proportional"}, "feedback": {"function": "rewards:vowels"}},
}
ROUND = "seed-0/round-2"
TARGETS = [f"results/tiny/mixture/{ROUND}/training.jsonl", "results/tiny/arms/seed-0/round-1/pairs.jsonl"]


def run(folder, model, reward_model, *, join_steps: bool) -> Workdir:
    folder.mkdir()
    directory = Workdir(folder, model)
    METHODS["mixture"]["feedback"]["model"] = str(reward_model)
    directory.configure(methods=METHODS, compare=list(METHODS), rounds=2, steps=2, join_steps=join_steps)
    done = directory.run(*TARGETS)
    assert done.returncode == 0, done.stdout
    return directory


def test_joined_steps_give_the_same_bytes(tmp_path, model_folders):
    reward_model = tiny.make_reward_model(tmp_path / "reward_model")
    apart = run(tmp_path / "apart", model_folders["llama"], reward_model, join_steps=False).path / "results"
    directory = run(tmp_path / "joined", model_folders["llama"], reward_model, join_steps=True)
    joined = directory.path / "results"

    def rows(results) -> dict[str, bytes]:
        return {str(path.relative_to(results)): path.read_bytes() for path in (results / "tiny").rglob("*.jsonl")}

    assert rows(apart) == rows(joined)
    costs = {str(path.relative_to(apart)): json.loads(path.read_text()) for path in apart.rglob("*.cost.json")}
    assert costs
    for path, cost in costs.items():
        other = json.loads((joined / path).read_text())
        assert other.keys() == cost.keys()
        for amount in ("stage", "tokens_in", "tokens_out", "flops"):
            assert other[amount] == cost[amount], (path, amount)

    logs = joined / "logs/tiny"
    for stage in ("generate", "logprobs", "reward"):
        text = (logs / f"mixture/{ROUND}/{stage}.log").read_text()
        assert text.splitlines()[-1].startswith(f"{stage}: 2 steps in "), text
    jobs = json.loads((logs / "plan.json").read_text())["jobs"]  # for `make status`
    outputs = {job["output"].removeprefix("results/tiny/") for job in jobs if job["stage"] == "generate_round"}
    assert outputs == {f"mixture/seed-0/round-{i}/step-2/generate.cost.json" for i in (1, 2)}
    assert not list((logs / "mixture" / ROUND).glob("step-*/generate.log"))
    assert (logs / "arms/seed-0/round-1/step-2/generate.log").is_file()  # it needs the arms of step 1
    # A function loads no model, so each of its steps has its own job.
    assert planned_rules(directory, f"results/tiny/plain/{ROUND}/pairs.jsonl") >= {"generate_round", "reward"}
    # The choice of responses to label depends on labels of earlier steps.
    choosing = planned_rules(directory, f"results/tiny/choosing/{ROUND}/pairs.jsonl")
    assert choosing >= {"generate_round", "logprobs_with_features", "reward"}

    # The run is complete. The round's job makes a missing file of one step, and nothing else runs again.
    assert planned_rules(directory, *TARGETS) == set()
    (joined / f"tiny/mixture/{ROUND}/step-1/rewards.jsonl").unlink()
    assert planned_rules(directory, f"results/tiny/mixture/{ROUND}/step-1/rewards.jsonl") == {"reward_round"}


def planned_rules(directory: Workdir, *targets: str) -> set[str]:
    listed = directory.run("--dry-run", "--printshellcmds", *targets).stdout
    return set(re.findall(r"^(?:    )?rule (\w+):", listed, re.MULTILINE))
