"""GPU leases: stages that run in parallel get different GPUs, and killed processes release theirs."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from prefloop.core import gpus
from prefloop.core.errors import InputError
from prefloop.core.gpus import DEVICE, LOCKS, VISIBLE, WANTED, visible_gpus

LEASE = "from prefloop.core.gpus import *; lease_requested_gpus(); print(os.environ.get(VISIBLE), flush=True); input()"
SMI = """#!/bin/sh
echo '0, GPU-aaaa'
echo '1, GPU-bbbb'
echo '2, GPU-cccc'
"""


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine with three GPUs according to a fake nvidia-smi. Yields the folder of the locks."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text(SMI)
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv(LOCKS, str(tmp_path / "locks"))
    for name in (VISIBLE, WANTED, DEVICE, "CUDA_DEVICE_ORDER", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    gpus.installed_gpus.cache_clear()
    yield tmp_path / "locks"
    gpus.installed_gpus.cache_clear()


class Stage:
    """A process that takes a lease, prints its visible GPUs, and holds the lease until `end` is called."""

    def __init__(self, count: int, *command: str, **environment: str):
        self.process = subprocess.Popen(
            command or [sys.executable, "-c", LEASE],
            env=os.environ | {WANTED: str(count)} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def gpus(self) -> set[str]:
        """Return the visible GPUs. The stage may first say that it waits, if another takes its lease at this moment."""
        line = self.line()
        return set((self.line() if line.startswith("waiting") else line).split(","))

    def end(self) -> None:
        self.process.communicate("\n")


def test_parallel_stages_get_different_gpus(machine):
    stages = [Stage(1), Stage(2)]
    ids = [stage.gpus() for stage in stages]
    assert [len(names) for names in ids] == [1, 2]
    assert set.union(*ids) == {"0", "1", "2"}
    for stage in stages:
        stage.end()


def test_killed_stage_releases_its_gpus(machine):
    """A stage that needs three GPUs waits for one that holds two; a later stage that needs one does not overtake it.

    Both say that they wait.
    """
    holder = Stage(2)
    held = holder.line()
    waiting, later = Stage(3), None
    assert waiting.line() == "waiting for 3 of 3 GPUs, which other stages use or wait for"
    later = Stage(1)
    assert later.line() == "waiting for 1 of 3 GPUs, which other stages use or wait for"
    time.sleep(1)
    assert later.process.poll() is None
    os.kill(holder.process.pid, signal.SIGKILL)
    assert (held, waiting.line()) == ("0,1", "0,1,2")
    waiting.end()
    assert later.line() == "0"
    for stage in (holder, later):
        stage.process.kill()
        stage.process.communicate()


def test_launcher_holds_the_lease_of_its_processes(machine):
    """The command replaces the launcher's process. Processes with a LOCAL_RANK take no lease of their own."""
    worker = f"import os; os.environ['LOCAL_RANK'] = '0'; {LEASE}"
    launcher = Stage(2, sys.executable, "-m", "prefloop.core.gpus", sys.executable, "-c", worker)
    assert launcher.line() == "0,1"
    other = Stage(1)
    assert other.line() == "2"
    for stage in (launcher, other):
        stage.end()


def test_gpus_chosen_by_a_scheduler_are_kept(machine, monkeypatch):
    """SLURM has already chosen them. If it hides other GPUs, it numbers those of each job from 0."""
    monkeypatch.setenv(VISIBLE, "2")
    first, second = Stage(1), Stage(1)
    assert [first.line(), second.line()] == ["2", "2"]
    for stage in (first, second):
        stage.end()
    assert not machine.exists()


def test_lease_is_among_the_visible_gpus(machine, monkeypatch):
    monkeypatch.setenv(VISIBLE, "2,0")
    stages = [Stage(1), Stage(1)]
    assert set.union(*[stage.gpus() for stage in stages]) == {"0", "2"}
    for stage in stages:
        stage.end()
    assert {path.name for path in machine.iterdir()} == {"queue", "GPU-aaaa", "GPU-cccc"}


@pytest.mark.parametrize("given", [None, "0,1"])
def test_cpu_can_be_chosen_despite_gpus(machine, monkeypatch, given):
    """This also works if a scheduler has set CUDA_VISIBLE_DEVICES for the job."""
    if given is not None:
        monkeypatch.setenv(VISIBLE, given)
    stage = Stage(1, **{DEVICE: "cpu"})
    assert (stage.line(), machine.exists()) == ("", False)
    stage.end()
    monkeypatch.setenv(DEVICE, "gpu")
    with pytest.raises(InputError, match="PREFLOOP_DEVICE: 'gpu', expected cpu"):
        gpus.lease_requested_gpus()


def test_nothing_changes_without_a_gpu(machine, monkeypatch):
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    gpus.lease_gpus(1)
    assert VISIBLE not in os.environ
    assert not machine.exists()


@pytest.mark.parametrize(
    ("listed", "expected"),
    [(None, ["0", "1", "2"]), ("", []), ("-1", []), ("NoDevFiles", []), ("1, GPU-cccc,-1,0", ["1", "GPU-cccc"])],
)
def test_visible_gpus(machine, monkeypatch, listed, expected):
    if listed is not None:
        monkeypatch.setenv(VISIBLE, listed)
    assert visible_gpus() == expected


def test_rules_pass_the_number_of_gpus():
    """Every rule that reserves GPUs passes their number to the program."""
    bodies = [
        body for path in (ROOT / "rules").glob("*.smk") for body in re.split(r"^\s*rule ", path.read_text(), flags=re.M)
    ]
    reserving = [body for body in bodies if re.search(r"^\s+gpu=", body, re.M)]
    assert len(reserving) == 15
    assert all(f"{WANTED}={{resources.gpu}}" in body for body in reserving)
