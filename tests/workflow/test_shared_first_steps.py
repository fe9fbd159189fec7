"""`share_first_step` samples once for methods with the same start and gives the same bytes."""

import json
import re

from conftest import Workdir

UNIFORM = {"bandit": {"allocation": "uniform"}}
METHODS = {
    "plain": UNIFORM | {"pairs": {"metric": "random"}},
    "rewarded": UNIFORM | {"feedback": {"function": "rewards:capitals"}},
    "discounted": UNIFORM | {"train": {"ld_alpha": 0.5}},
}
FILES = ("generations", "rewards", "logprobs", "pfp")


def targets(*methods: str) -> list[str]:
    return [f"results/tiny/{method}/seed-0/round-1/pairs.jsonl" for method in methods]


def job_counts(workdir: Workdir, *arguments: str) -> dict[str, int]:
    done = workdir.run("--dry-run", *arguments)
    assert done.returncode == 0, done.stdout
    table = done.stdout.split("Job stats:")[1].split("total")[0]
    return {line.split()[0]: int(line.split()[1]) for line in table.splitlines()[3:] if line.strip()}


def test_methods_share_samples_and_have_the_same_files(tmp_path, model_folders):
    folders = {name: tmp_path / name for name in ("alone", "shared")}
    workdirs = {}
    for name, folder in folders.items():
        folder.mkdir()
        workdirs[name] = Workdir(folder, model_folders["llama"])
        workdirs[name].configure(methods=METHODS, compare=list(METHODS), rounds=1, steps=1)
    shared = workdirs["shared"]
    shared.configure(share_first_step=True)
    counts = job_counts(shared, *targets(*METHODS))
    assert counts["generate"] == 1 and counts["copy_generations"] == 3
    assert counts["reward"] == counts["copy_rewards"] == 2, "one method has another feedback"
    assert counts["logprobs"] == counts["copy_logprobs"] == 2, "one method needs other log-probabilities"

    for workdir in workdirs.values():
        done = workdir.run(*targets(*METHODS))
        assert done.returncode == 0, done.stdout
    for method in METHODS:
        steps = [folder / f"results/tiny/{method}/seed-0/round-1/step-1" for folder in folders.values()]
        for file in FILES:
            first, second = ((step / f"{file}.jsonl").read_bytes() for step in steps)
            assert first == second, (method, file)
        for stage in ("generate", "reward", "logprobs"):
            costs = [json.loads((step / f"{stage}.cost.json").read_text()) for step in steps]
            for amount in ("stage", "tokens_in", "tokens_out", "flops"):
                assert costs[0][amount] == costs[1][amount], (method, stage, amount)

    assert shared.jobs(*targets(*METHODS)) == set()
    shared.configure(methods={"added": UNIFORM | {"pairs": {"metric": "reward_gap"}}}, compare=["added", *METHODS])
    plan = shared.run("--dry-run", "--printshellcmds", *targets("added", *METHODS)).stdout
    outputs = re.findall(r"^ *output: (.+)$", plan, re.MULTILINE)
    assert outputs and all("/added/" in output for output in outputs), plan
    assert job_counts(shared, *targets("added"))["copy_generations"] == 1
    assert "generate" not in job_counts(shared, *targets("added"))
