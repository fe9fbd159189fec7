"""Training that is killed and resumed, in one or two processes, gives the same result as without interruptions."""

import ast
import contextlib
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from prefloop.core.jsonl import write_rows
from prefloop.models.policies import read_policy
from prefloop.monitor.launch import launch
from prefloop.training.checkpoint import read_state

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
WAYS = {
    "lora": ["--lora.r", "4", "--lora.dropout", "0.2", "--beta-rule", "risk", "--beta-risk.warmup", "5"],
    "full": ["--parameters", "full", "--beta-rule", "batch"],
}


class Training:
    """train.py on a file of pairs. It can be started, killed and started again in one folder."""

    def __init__(self, folder: Path, manifest: Path, way: str, processes: int = 1, *more: str):
        self.folder = folder
        folder.mkdir()
        pairs, tokens = folder / "pairs.jsonl", random.Random(0)
        write_rows(pairs, (self.row(tokens) for _ in range(12)))
        names = {"output": "policy.pt", "metrics": "training.jsonl", "speed": "speed.csv", "cost": "cost.json"}
        files = [word for name, file in names.items() for word in (f"--{name}", str(folder / file))]
        inputs = ["--model", str(manifest), "--policy", str(manifest), "--pairs", str(pairs)]
        how = ["--epochs", "30", "--batch-size", "4", "--micro-batch-size", "2", "--dtype", "float32"]
        how += [
            "--learning-rate",
            "1e-3",
            "--seed",
            "3",
            "--round",
            "1",
            "--save-every",
            "2",
            "--checkpoints",
            "7",
            "60",
        ]
        program = [str(ROOT / "workflow/scripts/train.py"), *files, *inputs, *how, *WAYS[way], *more]
        self.command = [*shlex.split(launch(processes)), *program]

    @staticmethod
    def row(rng: random.Random) -> dict:
        sides = {side: [rng.randrange(5, 80) for _ in range(rng.randrange(2, 9))] for side in ("chosen", "rejected")}
        row = {"messages": [{"role": "user", "content": "the reply " * rng.randrange(1, 5)}]}
        for side, ids in sides.items():
            row |= {f"token_ids_{side}": ids, f"logp_ref_{side}": -4.5 * len(ids), f"reward_{side}": float(len(ids))}
        return row

    def start(self) -> subprocess.Popen:
        log, environment = (self.folder / "log").open("a"), os.environ | {"PATH": PATH, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            self.command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )

    def finish(self) -> None:
        assert self.start().wait(300) == 0, (self.folder / "log").read_text()[-3000:]

    def kill(self, how: signal.Signals, delay: float) -> int:
        """Start training, wait until it saves a new state, wait `delay` seconds and kill it; return its exit status."""
        state = self.folder / "policy.partial/state.pt"
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = self.start()
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert process.poll() is None, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.01)
        time.sleep(delay)
        if how == signal.SIGKILL:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        return process.wait(60)

    def hashes(self) -> dict[str, str]:
        """Hash the files whose bytes must not depend on interruptions."""
        files = [file for pattern in ("**/policy.pt", "training.jsonl", "adapter/*.safetensors") for file in
                 self.folder.glob(pattern)]  # fmt: skip
        return {str(file.relative_to(self.folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def weights(self) -> dict[str, torch.Tensor]:
        return read_policy(self.folder / "policy.pt")["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_training_killed_at_random_moments_ends_the_same(manifests, tmp_path, way):
    undisturbed, killed = (Training(tmp_path / name, manifests["llama"], way) for name in ("undisturbed", "killed"))
    undisturbed.finish()
    rng = random.Random(way)
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        code = killed.kill(how, rng.uniform(0, 0.3))
        assert code == (143 if how == signal.SIGTERM else -signal.SIGKILL)
    assert 0 < len(torch.load(killed.folder / "policy.partial/state.pt", weights_only=True)["steps"]) < 90
    killed.finish()
    assert killed.hashes() == undisturbed.hashes()
    expected = {"policy.pt", "training.jsonl", "checkpoint-7/policy.pt", "checkpoint-60/policy.pt"}
    assert set(killed.hashes()) == expected | ({"adapter/adapter_model.safetensors"} if way == "lora" else set())
    cost, whole = (json.loads((t.folder / "cost.json").read_text()) for t in (killed, undisturbed))
    assert cost["resumed"] == 5
    assert cost["flops"] == whole["flops"]
    assert len((killed.folder / "speed.csv").read_text().splitlines()) == 91
    assert not (killed.folder / "policy.partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("way", "sharding"), [("lora", "none"), ("full", "fsdp2")])
def test_interrupted_processes_end_the_same(manifests, tmp_path, way, sharding):
    """After SIGTERM to the launcher, two processes continue to the same bytes and one process to the same weights."""
    more = ["--sharding", sharding, "--lora.dropout", "0"]
    trainings = {
        "two": Training(tmp_path / "two", manifests["llama"], way, 2, *more),
        "killed": Training(tmp_path / "killed", manifests["llama"], way, 2, *more),
        "one": Training(tmp_path / "one", manifests["llama"], way, 1, *more),
    }
    for name in ("two", "one"):
        trainings[name].finish()
    killed, last = trainings["killed"], Training(tmp_path / "last", manifests["llama"], way, 1, *more)
    for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        assert killed.kill(how, 0.1) != 0
    assert "SIGTERM, saved after step" in (killed.folder / "log").read_text()
    shutil.copytree(killed.folder / "policy.partial", last.folder / "policy.partial")
    assert bool(list((last.folder / "policy.partial").glob("shards-*"))) == (sharding == "fsdp2")
    killed.finish()
    assert killed.hashes() == trainings["two"].hashes()
    for step in (7, 60):
        source = killed.folder / f"checkpoint-{step}/policy.pt"
        (last.folder / f"policy.partial/checkpoint-{step}.pt").write_bytes(source.read_bytes())
    last.finish()
    assert "resumes after step" in (last.folder / "log").read_text()
    expected = trainings["one"].weights()
    for name in ("two", "last"):
        for key, weight in trainings.get(name, last).weights().items():
            assert weight.numpy() == pytest.approx(expected[key].numpy(), abs=1e-5), (name, key)


@pytest.mark.slow
def test_sharded_bfloat16_losses_are_near_float32_losses(manifests, tmp_path):
    """Weights stay in float32. Two processes compute in bfloat16 and one in float32."""
    rows = {}
    for name, processes, dtype in (("one", 1, "float32"), ("two", 2, "bfloat16")):
        training = Training(tmp_path / name, manifests["llama"], "full", processes, "--sharding", "fsdp2")
        training.command[training.command.index("float32")] = dtype
        training.finish()
        assert {weight.dtype for weight in training.weights().values()} == {torch.float32}
        rows[name] = [json.loads(line)["loss"] for line in (training.folder / "training.jsonl").open()]
    assert rows["two"] != rows["one"]
    assert rows["two"][:20] == pytest.approx(rows["one"][:20], abs=0.05)


@pytest.mark.slow
def test_train_rule_starts_torchrun(workdir):
    """`train.processes` gives the policy of one process, and setting it back to one reruns nothing."""
    policy, one = "results/tiny/dota/seed-0/round-1/policy.pt", "results/one/dota/seed-0/round-1/policy.pt"
    workdir.configure(rounds=1, steps=1, compare=["dota"], train={"parameters": "full"})
    done = workdir.run(policy, "--config", "train={processes: 2, sharding: fsdp2}", "--printshellcmds")
    assert done.returncode == 0, done.stdout
    assert "exec python -m prefloop.core.gpus python -m torch.distributed.run --nproc-per-node 2" in done.stdout
    assert "--sharding fsdp2" in done.stdout
    assert workdir.jobs(policy) == set()
    done = workdir.run(one, "--config", "name=one")
    assert done.returncode == 0, done.stdout
    weights = [read_policy(workdir.path / file)["state_dict"] for file in (policy, one)]
    for name, weight in weights[0].items():
        assert weight.numpy() == pytest.approx(weights[1][name].numpy(), abs=1e-5)


def shell_of(rule: str) -> str:
    """Return the shell command of a rule of rules/train.smk, with its placeholders."""
    text = (ROOT / "rules/train.smk").read_text()
    return ast.literal_eval(re.search(rf"^rule {rule}:.*?^    shell:\n(.*?)\n\n", text, re.M | re.S)[1].join("()"))


SAVES_SLOWLY = """
import signal, sys, time
def save(*_):
    time.sleep(1)
    print("WARNING: saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("rule", "warns"), [("train", False), ("fine_tune", False), ("train_reward_model", True)])
def test_sigterm_to_every_process_lets_a_training_save(tmp_path, rule, warns):
    """SLURM sends it to the rule's shell and to every other process of the job."""
    program, log = tmp_path / "program.py", tmp_path / "log"
    program.write_text(SAVES_SLOWLY)
    values = {"params.launch": sys.executable, "params.program": str(program), "log": str(log)}
    command = re.sub(r"\{([\w.]+)\}", lambda match: values.get(match[1], "1"), shell_of(rule))
    command = ["bash", "-c", f"set -euo pipefail; {command}"]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while not log.exists() or "ready" not in log.read_text():
            assert job.poll() is None
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGTERM)
        assert (job.wait(20), log.read_text()) == (143, "ready\nWARNING: saved\n")
        assert ("WARNING: saved" in job.communicate()[1]) == warns
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


def test_launch_commands():
    """With several nodes, each runs one launcher that reads its rank from SLURM."""
    assert launch(1) == "python"
    torchrun = "python -m torch.distributed.run --nproc-per-node 4 --shutdown-timeout 3600"
    assert f"prefloop.core.gpus {torchrun} --standalone" in launch(4)
    words = shlex.split(launch(8, nodes=2, threads=16))
    assert words[:9] == ["srun", "--nodes", "2", "--ntasks", "2", "--ntasks-per-node", "1", "--cpus-per-task", "16"]
    assert words[9:13] == ["--cpu-bind=none", "--kill-on-bad-exit=1", "bash", "-c"]
    assert f"{torchrun} --nnodes 2" in words[13]
    assert '--node-rank "$SLURM_NODEID"' in words[13]
    with pytest.raises(ValueError, match="processes: 3 cannot be divided among 2 nodes; take a multiple of 2"):
        launch(3, nodes=2)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({}, "resource gpu: 1 cannot be divided among 2 nodes; take a multiple of 2, or set train.processes"),
        ({"processes": 3}, "train.processes: 3 cannot be divided among 2 nodes; take a multiple of 2"),
    ],
)
def test_error_names_what_sets_the_number_of_processes(workdir, train, message):
    """It is train.processes, or by default one process per GPU."""
    workdir.configure(rounds=1, steps=1, compare=["dota"], train=train)
    policy = "results/tiny/dota/seed-0/round-1/policy.pt"
    done = workdir.run("--dry-run", "--printshellcmds", policy, "--set-resources", "train:nodes=2")
    assert done.returncode != 0 and message in done.stdout


@pytest.mark.slow
def test_two_nodes_train_one_policy(manifests, tmp_path):
    """A script replaces SLURM and starts two launchers with one process each on this machine."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text(
        '#!/bin/bash\nshift 10\nSLURM_NODEID=1 "$@" & SLURM_NODEID=0 "$@"; code=$?; wait; exit $code\n'
    )
    (tools / "scontrol").write_text("#!/bin/bash\necho localhost; echo localhost\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    training, one = (Training(tmp_path / name, manifests["llama"], "full") for name in ("two", "one"))
    training.command = [*shlex.split(launch(2, nodes=2)), *training.command[1:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_JOB_ID", str(os.getpid()))
        patch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
        patch.setattr(sys.modules[__name__], "PATH", f"{tools}:{PATH}")
        training.finish()
    one.finish()
    for name, weight in one.weights().items():
        assert training.weights()[name].numpy() == pytest.approx(weight.numpy(), abs=1e-5)
    assert read_state(training.folder / "policy.partial/state.pt", "") == (None, "")


def test_settings_without_effect_on_results_do_not_retrain(finished, copy_of):
    """Processes, sharding, saved states and trackers do not change the policy. Epochs do."""
    workdir = copy_of(finished)
    how = {"processes": 2, "sharding": "fsdp2", "gradient_checkpointing": True, "save_every": 7}
    how |= {"save_every_minutes": 0.5}
    workdir.configure(train=how, tracking={"trackers": ["tensorboard"]})
    assert workdir.jobs() == set()
    workdir.configure(train={"epochs": 2})
    assert "train" in workdir.jobs()
