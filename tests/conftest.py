"""Fixtures: tiny models, built once, and a working directory in which the whole pipeline can run."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import tiny
from prefloop.config.resolve import merged as merge
from prefloop.models.fetch import fetch
from snakemake_runs import run_snakemake

ROOT = Path(__file__).parent.parent
# rules/common.smk sets the same path for programs in workflow/scripts/figures and tables.
os.environ["PYTHONPATH"] = str(ROOT / "workflow/scripts")
SHARED_DATA = ROOT.parent / "shared/data/hh_harmless_base_test.jsonl.gz"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests of the workflow, which take longest, so that no worker is left with them at the end."""
    items.sort(key=lambda item: ROOT / "tests/workflow" not in item.path.parents)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """make_once("name", make) returns a folder that `make` has filled, once for all parallel workers of pytest."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def folder_of(name: str, make: Callable[[Path], None]) -> Path:
        folder, is_made = root / f"shared_{name}", root / f"shared_{name}.made"
        with (root / f"shared_{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker in which `make` has failed
                folder.mkdir()
                make(folder)
                is_made.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def model_folders(make_once) -> dict[str, Path]:
    """One tiny model folder per architecture. Like many base models, gpt_neox has no chat template."""

    def make(root: Path) -> None:
        for name in tiny.ARCHITECTURES:
            tiny.make_model(root / name, name, chat=name != "gpt_neox")

    root = make_once("models", make)
    return {name: root / name for name in tiny.ARCHITECTURES}


@pytest.fixture(scope="session")
def manifests(model_folders, tmp_path_factory) -> dict[str, Path]:
    """Manifests of the same models after fetch_model."""
    root = tmp_path_factory.mktemp("fetched")
    for name, folder in model_folders.items():
        fetch(str(folder), root / name)
    return {name: root / name / "manifest.json" for name in model_folders}


@pytest.fixture(scope="session")
def trained(manifests, tmp_path_factory) -> Callable[..., Path]:
    """trained("lora" or "full", seed=…) returns a policy.pt that differs clearly from the tiny llama."""
    from prefloop.models.loading import load_trainable
    from prefloop.models.options import Lora

    root, manifest = tmp_path_factory.mktemp("trained"), manifests["llama"]

    def make(parameters: str, seed: int = 0) -> Path:
        path = root / f"{parameters}-{seed}.pt"
        if not path.exists():
            import torch

            torch.manual_seed(seed)
            lora = Lora(r=4) if parameters == "lora" else None
            network, _ = load_trainable(manifest, manifest, parameters, Lora(r=4), torch.float32)
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.05 * torch.randn_like(parameter)
            tiny.write_policy(path, network, manifest, lora, seed)
        return path

    return make


CONFIGS = ROOT / "tests/configs"
TINY = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
del TINY["policy"]  # each test has its own model
TINY["feedback"]["function"] = "prefloop.feedback.lexicons:vader"
TINY["evaluation"]["evaluator"]["function"] = "prefloop.feedback.lexicons:afinn"
# Test working directories have their own reward functions, some of them invalid.
REWARDS = (
    (CONFIGS / "rewards.py").read_text()
    + """

def constant(prompts, responses):
    return [1.0 for _ in responses]


def broken(prompts, responses):
    return [float("nan") for _ in responses]


def short(prompts, responses):
    return [1.0]


def raising(prompts, responses):
    raise KeyError("no such word")


def full(beta, margin):
    raise MemoryError("cannot allocate 2 GiB")
"""
)


MODEL_STAGES = ["cluster_prompts", "fine_tune", "train_reward_model", "generate", "reward", "logprobs", "train"]
MODEL_STAGES += [
    "mix_pairs",
    "sample",
    "compare_samples",
    "evaluate_samples",
    "generate_shard",
    "reward_shard",
    "logprobs_shard",
]
MODEL_STAGES += ["logprobs_with_features", "logprobs_with_features_shard"]
MODEL_STAGES += ["generate_round", "reward_round", "logprobs_round"]


SOURCES = ["Snakefile", "rules", "workflow", "experiments", "environment.yml", "profiles"]


def copy_sources(folder: Path) -> None:
    """Copy the project's sources into a folder."""
    for name in SOURCES:
        subprocess.run(["cp", "-a", str(ROOT / name), str(folder / name)], check=True)


class Workdir:
    """A working directory with a tiny config, in which Snakemake runs a clone's Snakefile."""

    def __init__(self, path: Path, model: Path, clone: Path = ROOT):
        self.path, self.clone = path, clone
        (path / "rewards.py").write_text(REWARDS)
        self.configure(policy={"model": str(model)}, feedback={"function": "rewards:vowels"})
        self.configure(evaluation={"evaluator": {"function": "rewards:capitals"}})

    def configure(self, **differences) -> None:
        file = self.path / "config.yaml"
        config = yaml.safe_load(file.read_text()) if file.exists() else TINY
        file.write_text(yaml.safe_dump(merge(config, differences)))

    def copy_sources(self) -> None:
        """Copy the project's sources into the working directory, to be edited, and use the copy from now on."""
        copy_sources(self.path)
        self.clone = self.path

    def append(self, file: str, text: str) -> None:
        """Add a line to a file of the working directory."""
        with (self.path / file).open("a") as lines:
            lines.write(f"\n{text}\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Snakemake. `.stdout` has its standard output and standard error."""
        return run_snakemake(self.flags(*arguments), self.path)

    def flags(self, *arguments: str) -> list[str]:
        """Return all flags of Snakemake here."""
        threads = [f"{rule}=1" for rule in MODEL_STAGES]
        arguments = (*arguments, "--resources", "gpu=2", "--set-threads", *threads)
        return ["--snakefile", str(self.clone / "Snakefile"), "--cores", "2", *arguments]

    def command(self, *arguments: str) -> dict:
        """Return the arguments for subprocess.run or Popen that start Snakemake here in a new process."""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = [sys.executable, "-m", "snakemake", *self.flags(*arguments)]
        return {"args": command, "cwd": self.path, "env": environment}

    def jobs(self, *arguments: str) -> set[str]:
        """Return the names of the rules that a dry-run lists."""
        done = self.run("--dry-run", *arguments)
        assert done.returncode == 0, done.stdout
        if "Nothing to be done" in done.stdout:
            return set()
        table = done.stdout.split("Job stats:")[1].split("total")[0]
        return {line.split()[0] for line in table.splitlines()[3:] if line.strip()}


@pytest.fixture
def workdir(tmp_path, model_folders) -> Workdir:
    return Workdir(tmp_path, model_folders["llama"])


@pytest.fixture
def sockets(monkeypatch) -> Iterator[Path]:
    """A folder for the sockets of the test's own warm processes. Socket paths must be shorter than 100 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def finished(make_once, tmp_path_factory, model_folders) -> Workdir:
    """A finished tiny experiment. Copy it before changing anything."""

    def make(folder: Path) -> None:
        done = Workdir(folder, model_folders["llama"]).run()
        assert done.returncode == 0, done.stdout

    made = make_once("finished", make)
    directory = Workdir.__new__(Workdir)
    directory.path, directory.clone = tmp_path_factory.mktemp("finished") / "copy", ROOT
    subprocess.run(["cp", "-a", made, directory.path], check=True)
    return directory


@pytest.fixture
def copy_of(tmp_path) -> Callable[[Workdir], Workdir]:
    """Copies a working directory with its timestamps and Snakemake's records; the copy has its own sources."""

    def copy(original: Workdir) -> Workdir:
        target = tmp_path / "copy"
        subprocess.run(["cp", "-a", str(original.path), str(target)], check=True)
        copied = Workdir.__new__(Workdir)
        copied.path = target
        copied.copy_sources()
        return copied

    return copy
