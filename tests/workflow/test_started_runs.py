"""A run can start from the policy of another run and then partly equals one longer run."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, Workdir
from prefloop.config.declarations import inner, relevant
from prefloop.config.resolve import flags, of_method
from prefloop.config.settings import ExperimentConfig
from prefloop.core.files import read_json
from prefloop.core.jsonl import read_rows

RUN = "dota/seed-0"
SAMPLES = "evaluation/temperature-0.7/samples.jsonl"


@pytest.fixture(scope="module")
def started(tmp_path_factory, model_folders) -> Workdir:
    """Run `whole` with two rounds, `first` with one, and `second` with one that starts from the policy of `first`."""
    directory = Workdir(tmp_path_factory.mktemp("started"), model_folders["llama"])
    directory.configure(compare=["dota"], steps=1, name="whole")
    done = directory.run(f"results/whole/{RUN}/round-2/policy.pt", f"results/whole/{RUN}/round-1/{SAMPLES}")
    assert done.returncode == 0, done.stdout
    directory.configure(rounds=1, name="first")
    done = directory.run(f"results/first/{RUN}/round-1/policy.pt")
    assert done.returncode == 0, done.stdout
    directory.configure(name="second", policy={"start": f"results/first/{RUN}/round-1/policy.pt"})
    done = directory.run(*targets_of_second())
    assert done.returncode == 0, done.stdout
    return directory


def targets_of_second() -> list[str]:
    run = f"results/second/{RUN}/round-1"
    return [f"{run}/policy.pt", f"results/second/initial/{SAMPLES}", f"{run}/evaluation/kl.jsonl"]


def same(directory: Workdir, first: str, second: str) -> bool:
    files = [directory.path / "results" / name for name in (first, second)]
    return files[0].read_bytes() == files[1].read_bytes()


def test_single_round_equals_the_first_of_two(started):
    assert same(started, f"first/{RUN}/round-1/policy.pt", f"whole/{RUN}/round-1/policy.pt")


def test_initial_policy_is_the_start(started):
    """Both the file and its samples for evaluation prompts are equal."""
    assert same(started, "second/initial/policy.pt", f"first/{RUN}/round-1/policy.pt")
    assert same(started, f"second/initial/{SAMPLES}", f"whole/{RUN}/round-1/{SAMPLES}")


def test_start_is_policy_and_reference_of_the_first_round(started):
    run = started.path / f"results/second/{RUN}/round-1"
    assert all(row["logp"] == row["logp_ref"] for row in read_rows(run / "step-1/logprobs.jsonl"))
    assert read_rows(run / "training.jsonl")[0]["margins/max"] == pytest.approx(0, abs=1e-4)


def test_kl_is_from_the_start(started):
    """A round of small steps stays near its start but is not equal to it."""
    rows = read_rows(started.path / f"results/second/{RUN}/round-1/evaluation/kl.jsonl")
    assert any(row["kl"] > 0 for row in rows)
    log = (started.path / f"results/logs/second/{RUN}/round-1/evaluation/measure_kl.log").read_text()
    assert "error" not in log


def test_second_run_differs_from_a_second_round(started):
    """Random numbers depend on the round number, which is 1 again."""
    step = f"{RUN}/round-2/step-1"
    assert not same(started, f"second/{RUN}/round-1/step-1/generations.jsonl", f"whole/{step}/generations.jsonl")
    assert not same(started, f"second/{RUN}/round-1/policy.pt", f"whole/{RUN}/round-2/policy.pt")


def test_training_from_the_start_equals_training_from_the_previous_round(started):
    """The second round's training from the start policy gives the same bytes as from the first round's policy."""
    folder, output = started.path / "results", started.path / "again"
    config = read_json(folder / "whole/settings.json")["settings"]
    settings = relevant(of_method(config, "dota")["train"], inner(ExperimentConfig, "train"))
    command = [sys.executable, str(ROOT / "workflow/scripts/train.py"), *shlex.split(flags(settings))]
    (manifest,) = folder.glob("models/*/manifest.json")
    files = {
        "model": manifest,
        "policy": folder / "second/initial/policy.pt",
        "pairs": folder / f"whole/{RUN}/round-2/pairs.jsonl",
        "chat": folder / "whole/prompts/chat.json",
        "output": output / "policy.pt",
        "metrics": output / "training.jsonl",
        "speed": output / "speed.csv",
        "cost": output / "cost.json",
    }
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    words += ["--seed", "0", "--round", "2"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(output, "policy.pt").read_bytes() == (folder / f"whole/{RUN}/round-2/policy.pt").read_bytes()


def test_finished_run_has_nothing_to_do(started):
    assert started.jobs(*targets_of_second()) == set()


def test_start_with_other_adapters_prints_one_line(started):
    started.configure(name="third", train={"lora": {"r": 8}})
    done = started.run("results/third/initial/policy.pt")
    assert done.returncode != 0
    log = (started.path / "results/logs/third/import_policy.log").read_text()
    assert "its adapters have r 4, and train.lora.r is 8; set train.lora to match" in log
    assert log.count("\n") == 1
