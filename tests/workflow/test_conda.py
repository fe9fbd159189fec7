"""`snakemake --use-conda` runs the workflow in an environment made from environment.yml."""

import subprocess

import pytest

from conftest import ROOT, Workdir

MADE_AT_IMPORT = """
import sys
from pathlib import Path

Path("prefix.txt").write_text(sys.prefix)
"""


@pytest.fixture
def conda(tmp_path_factory, monkeypatch):
    """Put the `conda` of tests/conda on PATH."""
    command = f". {ROOT}/tests/conda/up.sh {tmp_path_factory.mktemp('conda')} >&2 && env -0"
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    for line in made.stdout.split("\0"):
        name, _, value = line.partition("=")
        if name == "PATH" or name.startswith("CONDA_SHIM"):
            monkeypatch.setenv(name, value)


def rows_of(directory: Workdir) -> dict[str, bytes]:
    """Return the rows, arms and figure data, which two runs of one config must share."""
    root = directory.path / "results/tiny"
    files = [path for pattern in ("**/*.jsonl", "**/arms.json", "figures/*.csv") for path in root.glob(pattern)]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_conda_environment_gives_the_same_bytes(conda, workdir, finished):
    rewards = workdir.path / "rewards.py"
    rewards.write_text(rewards.read_text() + MADE_AT_IMPORT)
    done = workdir.run("--use-conda")
    assert done.returncode == 0, done.stdout
    prefix = (workdir.path / "prefix.txt").read_text()
    assert prefix.startswith(f"{workdir.path}/.snakemake/conda/"), "the jobs ran in another environment"
    here, there = rows_of(finished), rows_of(workdir)
    assert len(here) > 40
    assert here == there
