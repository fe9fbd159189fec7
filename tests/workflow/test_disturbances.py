"""Experiments survive full disks, torn files, a second Snakemake, clocks set back, and moves.

tools/chaos.py covers killed processes.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT, Workdir

RUN = "results/tiny/dota/seed-0"
# Its dependencies include all stages of a round except evaluation.
POLICY = f"{RUN}/round-1/policy.pt"


def contents(directory: Workdir) -> dict[str, bytes]:
    """Return rows and weights of the run by path; check that it has no hidden files."""
    root = directory.path / RUN
    assert [path for path in root.rglob(".*")] == []
    wanted = [path for path in root.rglob("*") if path.suffix in (".jsonl", ".pt") or path.name == "arms.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in wanted}


def same_as(directory: Workdir, whole: Workdir) -> bool:
    """Whether all files made so far equal those of the undisturbed experiment."""
    expected, found = contents(whole), contents(directory)
    return bool(found) and all(expected[path] == content for path, content in found.items())


@pytest.fixture
def small_disk():
    """Return a function that mounts a disk of `size` KiB at a folder until the test ends."""
    mounted = []

    def mount(folder: Path, size: int) -> None:
        folder.mkdir(exist_ok=True)
        options = f"{'remount,' * (folder in mounted)}size={size}k"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a small disk takes root's rights to mount: {done.stderr.decode().strip()}")
        mounted.append(folder)

    yield mount
    for folder in set(mounted):
        subprocess.run(["umount", folder], check=True)


def test_run_continues_after_a_full_disk_gets_more_space(workdir, finished, small_disk):
    full = 0
    for doublings in range(10):
        small_disk(workdir.path / "results", 64 * 2**doublings)
        done = workdir.run(POLICY)
        if done.returncode == 0:
            break
        full += 1
    assert done.returncode == 0, done.stdout
    assert full >= 2, "the disk was never full"
    assert same_as(workdir, finished)


def test_full_or_read_only_snakemake_records_print_one_line(workdir, small_disk):
    """The check runs before Snakemake writes there, which would give a traceback."""
    records = workdir.path / ".snakemake"
    small_disk(records, 64)
    full = workdir.run("--dry-run")
    subprocess.run(["mount", "-o", "remount,ro", records], check=True)
    read_only = workdir.run("--dry-run")
    for done, problem in ((full, "No space left on device"), (read_only, "Read-only file system")):
        assert done.returncode != 0
        assert f"{records}: {problem}, but Snakemake keeps its records there; make room" in done.stdout
        assert "Traceback" not in done.stdout


@pytest.mark.parametrize("name", ["rows", "policy"])
def test_full_disk_prints_one_line(tmp_path, small_disk, name):
    small_disk(tmp_path / "disk", 64)
    script = tmp_path / "program.py"
    script.write_text(
        "import torch\n"
        "from pathlib import Path\n"
        "from _program import run\n"
        "from prefloop.core.files import write_tensors\n"
        "from prefloop.core.jsonl import write_rows\n"
        "def rows(*, output: Path) -> None:\n"
        "    write_rows(output, ({'a': 'b' * 1000} for _ in range(100)))\n"
        "def policy(*, output: Path) -> None:\n"
        "    write_tensors(output, {'state_dict': torch.zeros(100, 1000)})\n"
        f"run({name})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")}
    command = [sys.executable, script, "--output", tmp_path / "disk/output"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "disk").iterdir()) == []


def test_torn_file_is_named_and_can_be_made_again(finished, copy_of):
    directory = copy_of(finished)
    torn = directory.path / RUN / "round-1/step-1/generations.jsonl"
    content = torn.read_bytes()
    torn.write_bytes(content[: len(content) - 40])
    done = directory.run(POLICY)
    assert done.returncode != 0
    lines = content.count(b"\n")
    assert f"step-1/generations.jsonl, line {lines}: not JSON" in done.stdout
    assert "the file may be torn" in done.stdout
    torn.unlink()
    done = directory.run(POLICY, str(torn.relative_to(directory.path)))
    assert done.returncode == 0, done.stdout
    assert torn.read_bytes() == content
    assert same_as(directory, finished)


def test_second_snakemake_is_refused_and_changes_nothing(workdir, finished):
    target = f"{RUN}/round-1/step-1/rewards.jsonl"
    first = subprocess.Popen(**workdir.command(target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((workdir.path / ".snakemake/locks").glob("*")):
        assert first.poll() is None
        time.sleep(0.05)
    second = workdir.run(target)
    assert second.returncode != 0
    assert "cannot be locked" in second.stdout
    assert first.wait() == 0
    assert same_as(workdir, finished)


def test_touch_fixes_file_times_after_a_clock_change(workdir, finished):
    """Files made before the clock was set back seem newer than files made from them, which Snakemake refuses."""
    rewards, pairs = f"{RUN}/round-1/step-1/rewards.jsonl", f"{RUN}/round-1/pairs.jsonl"
    done = workdir.run(rewards)
    assert done.returncode == 0, done.stdout
    ahead = time.time() + 3600
    for path in (workdir.path / "results/tiny").rglob("*"):  # other tests share the model's files, which are links
        os.utime(path, (ahead, ahead))
    done = workdir.run(pairs)
    assert done.returncode != 0
    assert "older modification time" in done.stdout
    assert not (workdir.path / pairs).exists()
    done = workdir.run("--touch", "--forceall", rewards)
    assert done.returncode == 0, done.stdout
    done = workdir.run(pairs, "--printshellcmds")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("rule generate:") == 1, "only step 2 generates; earlier files are kept"
    assert same_as(workdir, finished)


def test_moved_results_rerun_nothing(finished, copy_of, tmp_path):
    """The results move behind a symbolic link, then the whole folder moves. The run still continues."""
    directory = copy_of(finished)
    shutil.move(directory.path / "results", tmp_path / "elsewhere")
    (directory.path / "results").symlink_to(tmp_path / "elsewhere")
    assert directory.jobs() == set()
    directory.path = directory.clone = directory.path.rename(tmp_path / "moved")
    assert directory.jobs() == set()
    Path(directory.path, POLICY).unlink()
    done = directory.run(POLICY)
    assert done.returncode == 0, done.stdout
    assert same_as(directory, finished)
