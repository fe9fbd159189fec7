"""Snakemake in a fork behaves as in a new process; most tests of the workflow run it in forks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snakemake_runs import run_snakemake

PROBE = """
import json, os, sys
print(json.dumps({
    "argv": [sys.argv, sys.executable, sys.path, sys.flags],
    "main": [sys.modules["__main__"].__name__, sys.modules["__main__"].__file__],
    "cwd": os.getcwd(),
    "environment": {name: value for name, value in os.environ.items() if name != "_"},
    "files": sorted(os.listdir("/proc/self/fd")),
    "umask": [line for line in open("/proc/self/status") if line.startswith(("Umask", "SigI", "SigB"))],
}))
sys.stderr.write("an error\\n")
rule all:
    output: "made"
    shell: "echo $WORD > {output}"
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "Snakefile").write_text(PROBE)
    return tmp_path


def in_new_process(arguments: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | variables
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_fork_has_the_state_of_a_new_process(folder):
    """Also the flags and the environment, and both streams are captured."""
    states = []
    for run in (run_snakemake, in_new_process):
        done = run(["--cores", "1", "--dry-run"], folder, WORD="a b")
        assert done.returncode == 0 and "an error" in done.stdout and "echo $WORD" not in done.stdout
        states.append(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))
    assert states[0] == states[1]
    assert states[0]["environment"]["WORD"] == "a b"


def test_fork_runs_jobs_and_returns_the_exit_status(folder):
    assert run_snakemake(["--cores", "1"], folder, WORD="word").returncode == 0
    assert (folder / "made").read_text() == "word\n"
    refused = [run(["--no-such-flag"], folder) for run in (run_snakemake, in_new_process)]
    assert [done.returncode for done in refused] == [2, 2]
    assert refused[0].stdout.splitlines()[-1] == refused[1].stdout.splitlines()[-1]


def test_fork_returns_the_signal_that_ended_it(folder):
    (folder / "Snakefile").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert run_snakemake(["--cores", "1"], folder).returncode == -9


def test_fork_uses_the_modules_of_the_snakefiles_clone(workdir):
    workdir.copy_sources()
    workdir.append("workflow/scripts/prefloop/core/errors.py", 'print("edited")')
    done = workdir.run("--list-rules")
    assert done.returncode == 0, done.stdout
    assert "edited" in done.stdout
