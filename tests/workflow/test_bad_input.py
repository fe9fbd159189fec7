"""Snakemake reports errors of stages, and output files are complete or missing. tests/catalogue has the messages."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from prefloop.core.errors import InputError
from prefloop.core.files import atomic_write
from prefloop.core.jsonl import read_rows, write_rows

STEP = "uniform/seed-0/round-1/step-1"
PAIRS = "uniform/seed-0/round-1/pairs.jsonl"
POLICY = "uniform/seed-0/round-1/policy.pt"
NO_SERVER = {"kind": "judge", "function": None}
NO_SERVER["judge"] = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0}  # a closed port


@pytest.mark.parametrize(
    ("differences", "missing", "message"),
    [
        (
            {"clusters": {"k": 5000}, "prompts": {"take": None}},
            "clusters.pkl",
            "clusters.k is 5000, but there are only ",
        ),
        (
            {"bandit": {"budget": 1000}, "prompts": {"take": None}},
            f"{STEP}/prompts.jsonl",
            "bandit.budget: 1000 prompts, but ",
        ),
        ({"feedback": {"function": "rewards:broken"}}, f"{STEP}/rewards.jsonl", "returned nan for prompt"),
        ({"feedback": {"function": "rewards:short"}}, f"{STEP}/rewards.jsonl", "1 rewards for 12 responses"),
        (
            {"feedback": {"function": "rewards:raising"}},
            f"{STEP}/rewards.jsonl",
            "KeyError: 'no such word', in rewards.py, line ",
        ),
        ({"feedback": {"function": "rewards:constant"}}, PAIRS, "no pair left to train on: 24 pairs tied, 0 ordered"),
        ({"methods": {"uniform": {"pairs": {"min_gap": 1000.0}}}}, PAIRS, "ordered; pairs.min_gap dropped"),
        ({"feedback": NO_SERVER}, f"{STEP}/rewards.jsonl", "requests failed, the first with APIConnectionError"),
        (
            {"methods": {"uniform": {"train": {"loss": "rewards.py:full"}}}},
            POLICY,
            "memory is full (cannot allocate 2 GiB); lower this stage's batch_size, train's micro_batch_size",
        ),
    ],
)
def test_snakemake_reports_bad_input_of_a_stage(finished, copy_of, differences, missing, message):
    """The last line is the error, without a traceback. The stage's output is missing and earlier files are kept."""
    directory = copy_of(finished)
    directory.configure(**differences)
    done = directory.run(f"results/tiny/{POLICY}")
    assert done.returncode != 0
    failed, error = done.stdout.splitlines()[-2:]
    assert error.startswith("error: ") and message in error, done.stdout
    assert re.fullmatch(r"\w+ failed, log: results/logs/tiny/\S+\.log", failed), failed
    assert "Error in rule " in done.stdout, "Snakemake's own message"
    assert "Traceback" not in done.stdout
    assert not (directory.path / "results/tiny" / missing).exists()
    assert (directory.path / "results/tiny/prompts/train.jsonl").is_file()


def test_shell_never_runs_text_of_the_config(workdir):
    nasty = "a b'; $(touch ran) `touch ran`.jsonl"
    rows = "".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(10))
    (workdir.path / nasty).write_text(rows)
    workdir.configure(prompts={"source": nasty, "take": None}, bandit={"reuse": True})
    done = workdir.run("results/tiny/prompts/train.jsonl")
    assert done.returncode == 0, done.stdout
    assert not (workdir.path / "ran").exists()


def test_error_while_writing_leaves_no_files(tmp_path):
    def rows():
        yield {"a": 1}
        raise InputError("half way")

    with pytest.raises(InputError):
        write_rows(tmp_path / "rows.jsonl", rows())
    assert list(tmp_path.iterdir()) == []
    write_rows(tmp_path / "rows.jsonl", [{"a": 1}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(tmp_path / "rows.jsonl", [{"a": float("nan")}])
    assert read_rows(tmp_path / "rows.jsonl") == [{"a": 1}], "the previous file is kept"


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_killed_stage_leaves_no_output(tmp_path, death):
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from prefloop.core.files import atomic_write as whole\n"
        "with whole('rows.jsonl') as partial, partial.open('w') as file:\n"
        "    file.write('{}\\n'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(ROOT / "workflow/scripts")]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, death)
        process.wait(timeout=10)
    time.sleep(0.1)
    assert not (tmp_path / "rows.jsonl").exists()


def test_atomic_write_creates_missing_folders(tmp_path):
    with atomic_write(tmp_path / "a/b/c.txt") as partial:
        partial.write_text("x")
    assert (tmp_path / "a/b/c.txt").read_text() == "x"
