"""A clone works with --directory, as a module, read-only, for several experiments at once, and after a move."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import REWARDS, ROOT, SOURCES, TINY, Workdir, merge
from prefloop.core.jsonl import read_rows, write_rows

IMPORTING = """
configfile: "mine.yaml"

module prefloop:
    snakefile: "{clone}/Snakefile"
    config: config["prefloop"]

use rule * from prefloop{renamed}
"""
# A replacement for conda that prints what Snakemake asks for before it creates an environment.
CONDA = """#!/bin/sh
case "$*" in
    --version) echo "conda 25.1.0";;
    "info --json") echo '{"conda_prefix": "/opt/conda", "platform": "linux-64"}';;
    *) echo '{"get": {"channel_priority": "strict"}}';;
esac
"""


def copy_clone(folder: Path) -> Path:
    """Copy the project's sources. Every file is new, as in a fresh `git clone`."""
    folder.mkdir()
    for name in [*SOURCES, "config.yaml", "Makefile"]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def snakemake(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start Snakemake in a folder."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments, "--resources", "gpu=2"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def files_of(folder: Path) -> set[Path]:
    """List the files of a clone. For root, ignore `__pycache__`, as chmod does not stop root from writing there."""
    files = {path.relative_to(folder) for path in folder.rglob("*")}
    return {path for path in files if os.geteuid() != 0 or "__pycache__" not in path.parts}


@pytest.fixture
def importing(tmp_path, model_folders):
    """Return a function that makes a folder with an importing Snakefile, its config and a reward function."""

    def make(name: str, renamed: str = "", clone: Path = ROOT, snakefile: str = IMPORTING, **differences) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        own = {"policy": {"model": str(model_folders["llama"])}, "feedback": {"function": "rewards:vowels"}}
        config = merge(merge(TINY, own), differences)
        (folder / "mine.yaml").write_text(yaml.safe_dump({"prefloop": config}))
        (folder / "plain.yaml").write_text(yaml.safe_dump(config))
        (folder / "Snakefile").write_text(snakefile.format(clone=clone, renamed=renamed))
        (folder / "rewards.py").write_text(REWARDS)
        return folder

    return make


def test_two_experiments_run_at_once_from_a_read_only_clone(tmp_path, importing, model_folders):
    """One runs with --directory and one as a module. Packaged prompts and the judge template come from the clone."""
    clone = copy_clone(tmp_path / "a clone")
    subprocess.run(["chmod", "-R", "a-w", clone], check=True)
    before = files_of(clone)
    model = Path(shutil.copytree(model_folders["qwen"], tmp_path / "judge"))
    config = json.loads((model / "config.json").read_text())  # the packaged template is longer than the tests' prompts
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    judge = {"kind": "judge", "model": str(model), "judge": {"min_label_mass": 0.0}}
    differences = {"rounds": 1, "steps": 1, "compare": ["dota"], "evaluation": {"evaluator": judge}}
    module = importing("module", " as prefloop_*", clone, **differences)
    plain = importing("plain", **differences)
    target = "results/tiny/dota/seed-0/round-1/evaluation/temperature-0.7/against-initial.jsonl"
    arguments = ["--snakefile", f"{clone}/Snakefile", "--directory", str(plain), "--configfile", f"{plain}/plain.yaml"]
    runs = [snakemake(module, target), snakemake(tmp_path, target, *arguments)]
    for run in runs:
        output, _ = run.communicate()
        assert run.returncode == 0, output
    made = [path.relative_to(plain) for path in (plain / "results").rglob("*.jsonl")]
    assert len(made) > 10
    assert all((module / path).read_bytes() == (plain / path).read_bytes() for path in made)
    assert {row["outcome"] for row in read_rows(plain / target)} <= {"win", "tie", "loss", "invalid"}
    assert files_of(clone) == before
    assert not (tmp_path / ".snakemake").exists()
    subprocess.run(["chmod", "-R", "u+w", clone], check=True)


def test_paths_with_spaces_work(tmp_path, model_folders):
    """This holds for the clone, working directory, config, model, prompts and rewards."""
    clone, folder = copy_clone(tmp_path / "user's clone"), tmp_path / "my experiments"
    (folder / "my configs").mkdir(parents=True)
    shutil.copytree(model_folders["llama"], folder / "a model")
    (folder / "my rewards.py").write_text(REWARDS)
    rows = [{"prompt": f"question {number}", "chosen": "so", "rejected": "no"} for number in range(30)]
    write_rows(folder / "my prompts.jsonl", rows)
    rewards = {"function": "my rewards.py:vowels"}
    own = {"policy": {"model": "a model"}, "prompts": {"source": "my prompts.jsonl", "take": None}}
    own |= {"feedback": rewards, "evaluation": {"evaluator": rewards}, "rounds": 1, "compare": ["uniform"]}
    own |= {"figures": ["quality"], "tables": ["results"]}
    (folder / "my configs/tiny one.yaml").write_text(yaml.safe_dump(merge(TINY, own)))
    arguments = ["--snakefile", f"{clone}/Snakefile", "--directory", str(folder), "--cores", "2"]
    run = snakemake(tmp_path, *arguments, "--configfile", f"{folder}/my configs/tiny one.yaml")
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert (folder / "results/tiny/tables/results.csv").is_file() and not (tmp_path / "results").exists()
    # Without these variables of a make that runs the tests: they would make this one print its directory.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    command = ["make", "-f", clone / "Makefile", "status"]
    status = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert status.stdout.startswith("tiny: done") and not status.stderr, status


def test_python_in_a_path_with_spaces_is_refused_on_a_cluster(tmp_path, workdir):
    """The check runs before any job, as the shell would split the submitted command. Local runs work."""
    (tmp_path / "my venv").symlink_to(Path(sys.prefix), target_is_directory=True)
    python = f"{tmp_path}/my venv/bin/python"
    for arguments, refused in [(["--executor", "slurm", "--jobs", "1"], True), (["--cores", "1", "--dry-run"], False)]:
        command = [python, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), *arguments]
        done = subprocess.run(command, cwd=workdir.path, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == refused, done
        message = f"Python: '{python}' has a space or another special character in its path.*create the environment in"
        assert bool(re.search(message, done.stdout + done.stderr)) == refused, done


@pytest.mark.parametrize("renamed", ["", " as prefloop_*"])
def test_module_has_all_targets(importing, renamed):
    folder = importing("module", renamed, shards=2)
    for target in ("all", "export", "browse"):
        planned = snakemake(folder, renamed.removeprefix(" as ").replace("*", target) or target, "--dry-run")
        output, _ = planned.communicate()
        assert planned.returncode == 0, output
        assert "gather_rewards" in output


def test_module_without_a_config_runs_the_demo(importing):
    folder = importing("module", snakefile=IMPORTING.replace('    config: config["prefloop"]\n', ""))
    output, _ = snakemake(folder, "--dry-run").communicate()
    assert "results/default/figures/quality.pdf" in output


def test_module_with_a_path_prefix_is_refused(importing):
    folder = importing("module", snakefile=IMPORTING.replace('Snakefile"\n', 'Snakefile"\n    prefix: "below"\n'))
    refused = snakemake(folder, "--dry-run")
    output, _ = refused.communicate()
    assert refused.returncode != 0
    assert re.search("module prefloop: prefix.*not supported; .*--directory", output)


def test_another_clone_reruns_nothing(finished, tmp_path):
    """The clone's path and file times do not matter. test_disturbances.py checks moved results."""
    moved = Workdir.__new__(Workdir)
    moved.path, moved.clone = finished.path, copy_clone(tmp_path / "moved")
    assert moved.jobs() == set()
    assert moved.jobs("--workflow-profile", str(moved.clone / "profiles/cpu")) == set()


def test_switching_to_conda_reruns_nothing(finished, tmp_path, monkeypatch):
    """The environment's hash depends on the folder's path, and a run without conda has no hash."""
    (tmp_path / "conda").write_text(CONDA)
    (tmp_path / "conda").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert finished.jobs("--use-conda") == set()


def reserved_gpus(workdir, *arguments: str) -> dict[str, set[str]]:
    """Return the values of `gpu` in the jobs of each rule in a dry run."""
    listed = workdir.run("--dry-run", "--printshellcmds", *arguments).stdout
    jobs = re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: .*\bgpu=(\d)", listed, re.MULTILINE)
    return {rule: {gpu for name, gpu in jobs if name == rule} for rule, _ in jobs}


def test_slurm_profile_keeps_the_number_of_gpus_per_rule(workdir):
    """With vLLM on two GPUs, sampling stages reserve two, other models one and functions none, also on SLURM."""
    workdir.configure(shards=2, generation={"engine": "vllm", "vllm": {"tensor_parallel_size": 2}})
    local = reserved_gpus(workdir)
    expected = {"generate_shard": {"2"}, "sample": {"2"}, "logprobs_shard": {"1"}, "train": {"1"}}
    expected |= {"reward_shard": {"0"}, "compare_samples": {"0"}, "cluster_prompts": {"1"}}
    assert local == expected
    assert reserved_gpus(workdir, "--workflow-profile", str(ROOT / "profiles/slurm")) == expected
    workdir.configure(shards=1)
    assert reserved_gpus(workdir, "--workflow-profile", str(ROOT / "profiles/slurm"))["generate"] == {"2"}


def test_responses_of_the_data_set_reserve_no_gpu(workdir):
    """Evaluation still samples with a model."""
    workdir.configure(generation={"sampler": "dataset"}, methods={"uniform": {"generation": {"sampler": "policy"}}})
    gpus = reserved_gpus(workdir)
    assert (gpus["generate"], gpus["sample"]) == ({"0", "1"}, {"1"})


def test_gpu_is_reserved_only_if_feedback_loads_a_model(workdir, model_folders):
    def gpus() -> dict[str, set[str]]:
        return reserved_gpus(workdir)

    function = gpus()
    assert function["reward"] == function["compare_samples"] == {"0"}
    assert function["generate"] == function["train"] == {"1"}
    judge = {"kind": "judge", "model": str(model_folders["qwen"])}
    workdir.configure(feedback=judge, methods={"uniform": {"feedback": {"kind": "function"}}})
    judged = gpus()
    assert judged["reward"] == {"0", "1"}
    assert judged["compare_samples"] == {"1"}
    workdir.configure(feedback={"model": None, "judge": {"base_url": "http://localhost:1", "model": "m"}})
    assert gpus()["reward"] == {"0"}
