"""A real SLURM on one machine runs the tiny experiment with profiles/slurm, a failed job and a timeout.

tests/slurm/slurm-up.sh starts it and lists its requirements. Without them, these tests are skipped. Its clients are
on PATH only in these tests, as Snakemake starts 9 s later where a client finds no controller.
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
# A reward that fails once in rule reward, not in evaluation, and writes its GPUs to a file.
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
# One round of one step. Training takes several seconds and often saves its state.
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
    """Run SLURM during these tests; yield the folder of its clients."""
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
    """Runs Snakemake and SLURM's clients in a working directory."""

    def __init__(self, clients: Path, workdir: Workdir):
        self.workdir, self.snakefile = workdir.path, workdir.clone / "Snakefile"
        self.environment = os.environ | {"PATH": f"{clients}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.environment |= {"PREFLOOP_DEVICE": "cpu"}  # SLURM's GPUs do not exist

    def profile(self, name: str, **training) -> str:
        """Write profiles/slurm for few jobs with one thread, early status checks and `training` resources."""
        profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
        profile |= {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 10, "jobs": 3}
        profile |= {"set-threads": dict.fromkeys(MODEL_STAGES, 1)}
        # Groups save time in the queue.
        profile["groups"] = dict.fromkeys(["fetch_model", "prepare_prompts", "cluster_prompts"], "inputs")
        profile["groups"] |= dict.fromkeys(["allocate", "generate"], "answers_{method}_{seed}_{round}_{step}")
        profile["set-resources"]["train"] = profile["set-resources"]["train"] | training
        folder = self.workdir / name
        folder.mkdir()
        (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
        return folder.name

    def start(self, log: Path, profile: str, *arguments: str) -> subprocess.Popen:
        """Start the workflow with a profile."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.snakefile)]
        command += ["--configfile", CONFIG, "--workflow-profile", profile, *arguments]
        with log.open("w") as file:
            return subprocess.Popen(
                command, cwd=self.workdir, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )

    def ask(self, *command: str) -> str:
        """Return the output of a SLURM client."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def jobs(self) -> list[dict]:
        """Return SLURM's records of all jobs, oldest first."""
        lines = self.ask("scontrol", "--oneliner", "show", "job").splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]

    def jobs_of(self, name: str) -> list[dict]:
        """Return the jobs of a rule or group."""
        return [job for job in self.jobs() if job["Comment"].startswith(f"rule_{name}")]


def outlast(cluster: Cluster, snakemake: subprocess.Popen) -> None:
    """Stop the training process after it saves a state, until SLURM reports a timeout."""
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
    """Run the same experiment locally and with SLURM, where a reward fails once and training times out.

    The clone, working directory and config for SLURM have spaces in their paths.
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
    """Return the requested memory of a job in MB."""
    number, unit = re.search(r"mem=([\d.]+)([MG])", job["TRES"]).groups()
    return float(number) * {"M": 1, "G": 1024}[unit]


def test_cluster_gives_the_same_bytes_as_this_machine(runs):
    """This compares all files without measured times, after a failed job and a timeout."""
    here, cluster, _ = runs
    timed = re.compile(r"\.(cost\.json|log)$|training_speed")
    files = [p.relative_to(here) for p in here.glob("results/tiny/**/*") if p.is_file() and not timed.search(p.name)]
    assert len(files) > 20
    different = [p for p in files if not filecmp.cmp(here / p, cluster.workdir / p, shallow=False)]
    for path in [p for p in different if p.name == "adapter_config.json"]:  # has the absolute folder of the base model
        contents = [(folder / path).read_text().replace(str(folder), "") for folder in (here, cluster.workdir)]
        assert contents[0] == contents[1]
        different.remove(path)
    assert different == []


def test_slurm_jobs_request_gpus_only_for_models(runs):
    """Stages that load a model request one GPU. Others, such as reward functions, request none."""
    here, cluster, _ = runs
    for job in cluster.jobs():
        stages = set(STAGE.findall(re.sub("_wildcards.*", "", job["Comment"])))
        assert job.get("TresPerJob") == ("gres:gpu:1" if stages & MODEL_STAGES else None), job["Comment"]
    assert (here / "gpus").read_text() == "none"
    assert (cluster.workdir / "gpus").read_text() == "none"


def test_failed_job_is_retried_with_more_memory_and_time(runs):
    _, cluster, _ = runs
    first, second = cluster.jobs_of("reward")
    assert [first["JobState"], second["JobState"]] == ["FAILED", "COMPLETED"]
    assert [memory(first), memory(second)] == [32000, 64000]
    assert [first["TimeLimit"], second["TimeLimit"]] == ["02:00:00", "04:00:00"]


def test_training_continues_after_a_timeout(runs):
    """On SIGTERM the program saves its state, the second job continues from it, and the state is deleted at the end."""
    _, cluster, log = runs
    first, second = cluster.jobs_of("train")
    assert [first["JobState"], second["JobState"]] == ["TIMEOUT", "COMPLETED"]
    assert [first["TimeLimit"], second["TimeLimit"]] == ["00:01:00", "00:10:00"]
    assert "SIGTERM, saved after step" in log.read_text()  # Snakemake prints the log of the failed job
    # SIGTERM reached the program and not a shell around it, which would die and leave the program running. SLURM may
    # kill the step's Snakemake early, so other lines of this log are not checked.
    (ended,) = (cluster.workdir / "results/logs/slurm/rule_train").rglob(f"{first['JobId']}.log")
    assert "Terminated" not in ended.read_text() and "died with" not in ended.read_text()
    train = (cluster.workdir / "results/logs/tiny/dota/seed-0/round-1/train.log").read_text()
    assert int(re.search(r"resumes after step (\d+), interrupted 1 time", train)[1]) >= 2
    assert not (cluster.workdir / POLICY).with_name("policy.partial").exists()


def test_small_jobs_share_one_slurm_job(runs):
    """Figures and tables share one SLURM job. SLURM logs are kept only for the two jobs that failed."""
    _, cluster, _ = runs
    (figures,) = cluster.jobs_of("figures")
    assert "plot_quality" in figures["Comment"]
    logs = list((cluster.workdir / "results/logs/slurm").rglob("*.log"))
    assert {log.parent.parent.name for log in logs} == {"rule_reward", "rule_train"}


def test_two_nodes_train_together(runs):
    """With the settings of docs/cluster.md for several nodes, losses are near those of one process."""
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
