"""A real SLURM on one machine: the tiny experiment through profiles/slurm, with a failure and a timeout on the way.

tests/slurm/slurm-up.sh starts it and says what it needs; without, these tests are skipped. Only they see it, as its
clients are on PATH for them alone: where a client is there and no controller answers, Snakemake starts 9 s later.
"""

import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, Workdir, copy_sources

pytestmark = pytest.mark.slurm
SCRIPTS = ROOT / "tests/slurm"
MODEL_STAGES = {"generate", "logprobs", "train", "sample", "cluster_prompts"}
STAGE = re.compile("compare_samples|cluster_prompts|generate|logprobs|train|sample")  # longer names first
CONFIG = "my config.yaml"
POLICY = "results/tiny/dota/seed-0/round-1/policy.pt"
# A reward that fails once, in rule reward and not in the evaluation, and writes down the GPUs that it was given.
ONCE = """
import os
import sys
from pathlib import Path

def once(prompts, responses):
    if Path(sys.argv[0]).name == "reward.py" and not Path("has_failed").exists():
        Path("has_failed").touch()
        raise MemoryError("as if the node's memory were full")
    Path("gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    return [sum(letter in "aeiou" for letter in response) for response in responses]
"""
# One round of one step, of which training takes some seconds; its state is saved every few steps.
SMALL = {
    "rounds": 1,
    "steps": 1,
    "compare": ["dota"],
    "feedback": {"function": "once:once"},
    "train": {"epochs": 50, "save_every": 2},
    "figures": ["quality", "arms"],
    "tables": ["results"],
}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The folder of clients of a SLURM that runs while these tests do."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("a SLURM of our own needs root, for its devices, and apt-get, for its packages")
    if shutil.which("sbatch"):
        pytest.skip("a SLURM is installed here, and apt-get has no packages to fetch that are there")
    state = tmp_path_factory.mktemp("slurm")
    try:
        up = subprocess.run(
            [SCRIPTS / "slurm-up.sh", state], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if up.returncode == 77:
            pytest.skip(f"SLURM's packages cannot be fetched here: {up.stdout}")
        assert up.returncode == 0, up.stdout
        yield state / "bin"
    finally:
        subprocess.run([SCRIPTS / "slurm-down.sh", state], check=True)


class Cluster:
    """Snakemake and SLURM's clients, run in a working directory."""

    def __init__(self, clients: Path, workdir: Workdir):
        self.workdir, self.snakefile = workdir.path, workdir.clone / "Snakefile"
        self.environment = os.environ | {"PATH": f"{clients}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.environment |= {"PREFLOOP_DEVICE": "cpu"}  # SLURM's GPUs are declared and not there

    def profile(self, name: str, **training) -> str:
        """profiles/slurm for this small machine: few jobs on a thread each, soon looked after; training as told."""
        profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
        profile |= {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 10, "jobs": 3}
        profile |= {"set-threads": dict.fromkeys(MODEL_STAGES, 1)}
        # One job each for what comes before the policy's answers, and for them, so that less time is spent in queues.
        profile["groups"] = dict.fromkeys(["fetch_model", "prepare_prompts", "cluster_prompts"], "inputs")
        profile["groups"] |= dict.fromkeys(["allocate", "generate"], "answers_{method}_{seed}_{round}_{step}")
        profile["set-resources"]["train"] = profile["set-resources"]["train"] | training
        folder = self.workdir / name
        folder.mkdir()
        (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
        return folder.name

    def start(self, log: Path, profile: str, *arguments: str) -> subprocess.Popen:
        """The workflow, by way of SLURM."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.snakefile)]
        command += ["--configfile", CONFIG, "--workflow-profile", profile, *arguments]
        with log.open("w") as file:
            return subprocess.Popen(
                command, cwd=self.workdir, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )

    def ask(self, *command: str) -> str:
        """What a client of SLURM prints."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def jobs(self) -> list[dict]:
        """SLURM's record of every job, oldest first."""
        lines = self.ask("scontrol", "--oneliner", "show", "job").splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]

    def jobs_of(self, name: str) -> list[dict]:
        """The jobs of a rule or group."""
        return [job for job in self.jobs() if job["Comment"].startswith(f"rule_{name}")]


def outlast(cluster: Cluster, snakemake: subprocess.Popen) -> None:
    """Hold the training still once it has saved a state, until its time is over and SLURM has said so."""
    while not (cluster.workdir / POLICY).with_name("policy.partial").joinpath("state.pt").exists():
        assert snakemake.poll() is None
        time.sleep(0.02)
    train = cluster.snakefile.with_name("workflow") / "scripts/train.py"
    (program,) = [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if process.joinpath("cmdline").read_bytes().startswith(f"python\0{train}".encode())
        and process.joinpath("cwd").resolve() == cluster.workdir
    ]
    os.kill(program, signal.SIGSTOP)
    while cluster.jobs_of("train")[0]["JobState"] == "RUNNING":
        time.sleep(0.2)
    os.kill(program, signal.SIGCONT)


@pytest.fixture(scope="module")
def runs(slurm, model_folders, tmp_path_factory) -> tuple[Path, Cluster, Path]:
    """The same experiment on this machine and through SLURM, where a reward fails once and the training times out.

    The clone, the working directory and the config that SLURM sees have spaces in their paths.
    """
    clone = tmp_path_factory.mktemp("a clone")
    here, there = [
        Workdir(tmp_path_factory.mktemp(name), model_folders["llama"], clone) for name in ["here", "on the cluster"]
    ]
    copy_sources(clone)
    for workdir in [here, there]:
        (workdir.path / "once.py").write_text(ONCE)
        workdir.configure(**SMALL)
    (there.path / "config.yaml").rename(there.path / CONFIG)
    (here.path / "has_failed").touch()
    done = here.run()
    assert done.returncode == 0, done.stdout
    cluster, log = Cluster(slurm, there), there.path / "log"
    snakemake = cluster.start(log, cluster.profile("short_training", runtime="1 + 9 * (attempt - 1)"))
    try:
        outlast(cluster, snakemake)
        assert snakemake.wait() == 0, log.read_text()
    finally:
        snakemake.terminate()
    return here.path, cluster, log


def memory(job: dict) -> float:
    """What a job asked for, in MB."""
    number, unit = re.search(r"mem=([\d.]+)([MG])", job["TRES"]).groups()
    return float(number) * {"M": 1, "G": 1024}[unit]


def test_a_cluster_makes_the_bytes_of_this_machine(runs):
    """Rows, weights, figures and tables, through a failed and a timed-out job; what tells the time is left out."""
    here, cluster, _ = runs
    timed = re.compile(r"\.(cost\.json|log)$|training_speed")
    files = [p.relative_to(here) for p in here.glob("results/tiny/**/*") if p.is_file() and not timed.search(p.name)]
    assert len(files) > 20
    different = [p for p in files if not filecmp.cmp(here / p, cluster.workdir / p, shallow=False)]
    for path in [p for p in different if p.name == "adapter_config.json"]:  # names the base model's absolute folder
        contents = [(folder / path).read_text().replace(str(folder), "") for folder in (here, cluster.workdir)]
        assert contents[0] == contents[1]
        different.remove(path)
    assert different == []


def test_gpus_are_asked_of_slurm(runs):
    """One GPU for a stage that loads a model, and none for any other, such as a reward function."""
    here, cluster, _ = runs
    for job in cluster.jobs():
        stages = set(STAGE.findall(re.sub("_wildcards.*", "", job["Comment"])))
        assert job.get("TresPerJob") == ("gres:gpu:1" if stages & MODEL_STAGES else None), job["Comment"]
    assert (here / "gpus").read_text() == "none"
    assert (cluster.workdir / "gpus").read_text() == "none"


def test_a_failed_job_comes_again_with_more_memory_and_time(runs):
    _, cluster, _ = runs
    first, second = cluster.jobs_of("reward")
    assert [first["JobState"], second["JobState"]] == ["FAILED", "COMPLETED"]
    assert [memory(first), memory(second)] == [32000, 64000]
    assert [first["TimeLimit"], second["TimeLimit"]] == ["02:00:00", "04:00:00"]


def test_a_training_that_times_out_goes_on(runs):
    """SLURM's SIGTERM reaches the program, which saves; the second job starts from there, and nothing is left of it."""
    _, cluster, log = runs
    first, second = cluster.jobs_of("train")
    assert [first["JobState"], second["JobState"]] == ["TIMEOUT", "COMPLETED"]
    assert [first["TimeLimit"], second["TimeLimit"]] == ["00:01:00", "00:10:00"]
    assert "SIGTERM, saved after step" in log.read_text()  # the failed job's log, which Snakemake shows
    # What SIGTERM reached was the program, not a shell around it, which would die of the signal and leave the program.
    # SLURM may kill the step's Snakemake before it has said how the program ended, so nothing else is asked of its log.
    (ended,) = (cluster.workdir / "results/logs/slurm/rule_train").rglob(f"{first['JobId']}.log")
    assert "Terminated" not in ended.read_text() and "died with" not in ended.read_text()
    train = (cluster.workdir / "results/logs/tiny/dota/seed-0/round-1/train.log").read_text()
    assert int(re.search(r"goes on after step (\d+), interrupted 1 time", train)[1]) >= 2
    assert not (cluster.workdir / POLICY).with_name("policy.partial").exists()


def test_small_jobs_share_one(runs):
    """Figures and tables are one job of SLURM's; its logs are kept for the two jobs that failed."""
    _, cluster, _ = runs
    (figures,) = cluster.jobs_of("figures")
    assert "plot_quality" in figures["Comment"]
    logs = list((cluster.workdir / "results/logs/slurm").rglob("*.log"))
    assert {log.parent.parent.name for log in logs} == {"rule_reward", "rule_train"}


def test_two_nodes_train_together(runs):
    """The settings of docs/cluster.md for several nodes: one launcher on each, and the losses of one process."""
    here, cluster, _ = runs
    log = cluster.workdir / "log_of_two_nodes"
    nodes = {"gpu": 2, "gres": "gpu:1", "nodes": 2, "tasks": 2, "tasks_per_gpu": 0, "mpi": "srun"}
    snakemake = cluster.start(log, cluster.profile("two_nodes", **nodes), "--forcerun", "train", "--", POLICY)
    assert snakemake.wait() == 0, log.read_text()
    job = cluster.jobs_of("train")[-1]
    assert (job["JobState"], job["NumNodes"], job["NumTasks"]) == ("COMPLETED", "2", "2")
    losses = [
        [json.loads(line)["loss"] for line in (folder / POLICY).with_name("training.jsonl").open()]
        for folder in [here, cluster.workdir]
    ]
    assert len(losses[0]) == len(losses[1]) == 100
    assert losses[1][:10] == pytest.approx(losses[0][:10], rel=1e-4)
