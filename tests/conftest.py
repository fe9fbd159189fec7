"""Fixtures: tiny models made once, and a working directory in which the whole pipeline can run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import tiny
from prefloop.config import merged as merge
from prefloop.fetch import fetch

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared/data/hh_harmless_base_test.jsonl.gz"


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory) -> dict[str, Path]:
    """A tiny model folder of each architecture; gpt_neox has no chat template, as base models have none."""
    root = tmp_path_factory.mktemp("models")
    return {name: tiny.make_model(root / name, name, chat=name != "gpt_neox") for name in tiny.ARCHITECTURES}


@pytest.fixture(scope="session")
def manifests(model_folders, tmp_path_factory) -> dict[str, Path]:
    """The same models as fetch_model leaves them."""
    root = tmp_path_factory.mktemp("fetched")
    for name, folder in model_folders.items():
        fetch(str(folder), root / name)
    return {name: root / name / "manifest.json" for name in model_folders}


@pytest.fixture(scope="session")
def trained(manifests, tmp_path_factory) -> Callable[..., Path]:
    """policy.pt files of the tiny llama, far enough from it to be told apart: trained("lora" or "full", seed=…)."""
    from prefloop.models import load_trainable
    from prefloop.policies import Lora

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


TINY = {
    "name": "tiny",
    "seeds": [0],
    "rounds": 2,
    "steps": 2,
    "compare": ["dota", "uniform"],
    "methods": {
        "dota": {"bandit": {"allocation": "proportional"}, "pairs": {"metric": "pfp"}},
        "uniform": {"bandit": {"allocation": "uniform"}, "pairs": {"metric": "random"}},
    },
    "prompts": {"take": 60, "eval_fraction": 0.2},
    "clusters": {"k": 3},
    "bandit": {"budget": 4},
    "generation": {"n": 3, "max_new_tokens": 12, "dtype": "float32"},
    "feedback": {"function": "prefloop.lexicons:vader"},
    "scoring": {"dtype": "float32"},
    "pairs": {"top_n": 8},
    "train": {"dtype": "float32", "lora": {"r": 4}, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-3},
    "evaluation": {
        "max_new_tokens": 12,
        "dtype": "float32",
        "evaluator": {"function": "prefloop.lexicons:afinn"},
    },
}
# Random tiny models write no English, so the tests reward letters instead of sentiment.
REWARDS = """
def vowels(prompts, responses):
    return [sum(letter in "aeiou" for letter in response) for response in responses]

def capitals(prompts, responses):
    return [sum(letter.isupper() for letter in response) for response in responses]

def constant(prompts, responses):
    return [1.0 for _ in responses]

def broken(prompts, responses):
    return [float("nan") for _ in responses]

def short(prompts, responses):
    return [1.0]

def raising(prompts, responses):
    raise KeyError("no such word")
"""


MODEL_STAGES = ["cluster", "sft", "reward_model", "generate", "reward", "perplexity", "train", "sample", "judge"]
MODEL_STAGES += ["generate_shard", "reward_shard", "perplexity_shard"]


class Workdir:
    """A folder with links to the project's sources, a tiny config of its own, and Snakemake to run in it."""

    def __init__(self, path: Path, model: Path):
        self.path = path
        for name in ["Snakefile", "rules", "workflow", "experiments", "environment.yml", "profiles"]:
            (path / name).symlink_to(ROOT / name)
        (path / "rewards.py").write_text(REWARDS)
        self.configure(policy={"model": str(model)}, feedback={"function": "rewards:vowels"})
        self.configure(evaluation={"evaluator": {"function": "rewards:capitals"}})

    def configure(self, **differences) -> None:
        file = self.path / "config.yaml"
        config = yaml.safe_load(file.read_text()) if file.exists() else TINY
        file.write_text(yaml.safe_dump(merge(config, differences)))

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Snakemake; its output is in `.stdout`."""
        return subprocess.run(
            **self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )

    def command(self, *arguments: str) -> dict:
        """How Snakemake is run here, as arguments of subprocess.run and Popen."""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        threads = [f"{rule}=1" for rule in MODEL_STAGES]
        arguments = (*arguments, "--resources", "gpu=2", "--set-threads", *threads)
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        return {"args": command, "cwd": self.path, "env": environment}

    def jobs(self, *arguments: str) -> set[str]:
        """Names of the rules that a dry-run lists."""
        done = self.run("--dry-run", *arguments)
        assert done.returncode == 0, done.stdout
        if "Nothing to be done" in done.stdout:
            return set()
        table = done.stdout.split("Job stats:")[1].split("total")[0]
        return {line.split()[0] for line in table.splitlines()[3:] if line.strip()}


@pytest.fixture
def workdir(tmp_path, model_folders) -> Workdir:
    return Workdir(tmp_path, model_folders["llama"])


@pytest.fixture(scope="session")
def finished(tmp_path_factory, model_folders) -> Workdir:
    """A tiny experiment that has run to its end; copy it before changing anything."""
    directory = Workdir(tmp_path_factory.mktemp("finished"), model_folders["llama"])
    done = directory.run()
    assert done.returncode == 0, done.stdout
    return directory


@pytest.fixture
def copy_of(tmp_path) -> Callable[[Workdir], Workdir]:
    """A copy of a finished working directory, times and Snakemake's records included, with sources of its own."""

    def copy(original: Workdir) -> Workdir:
        target = tmp_path / "copy"
        subprocess.run(["cp", "-a", str(original.path), str(target)], check=True)
        for name in ["Snakefile", "rules", "workflow"]:
            (target / name).unlink()
            subprocess.run(["cp", "-a", str(ROOT / name), str(target / name)], check=True)
        copied = Workdir.__new__(Workdir)
        copied.path = target
        return copied

    return copy
