"""What happens to experiments on real machines: full disks, torn files, a second Snakemake, clocks set back, moves.

Killed processes are tools/chaos.py's.
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
# All that leads to the first policy of one method.
POLICY = f"{RUN}/round-1/policy.pt"


def contents(directory: Workdir) -> dict[str, bytes]:
    """Every row and trained weight of the run, by path; no hidden file may lie beside them."""
    root = directory.path / RUN
    assert [path for path in root.rglob(".*")] == []
    wanted = [path for path in root.rglob("*") if path.suffix in (".jsonl", ".pt") or path.name == "arms.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in wanted}


def same_as(directory: Workdir, whole: Workdir) -> bool:
    """Whether all that was made has the bytes it has in the undisturbed experiment."""
    expected, found = contents(whole), contents(directory)
    return bool(found) and all(expected[path] == content for path, content in found.items())


@pytest.fixture
def small_disk():
    """Mount a disk of so many KiB at a folder; it is taken away after the test."""
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


def test_a_full_disk_stops_the_run_and_more_room_lets_it_go_on(workdir, finished, small_disk):
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


def test_full_or_read_only_records_of_snakemake_are_one_line(workdir, small_disk):
    """Before Snakemake writes there, which would end in a traceback."""
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
def test_a_full_disk_is_told_in_one_line(tmp_path, small_disk, name):
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


def test_a_torn_file_is_named_and_made_again(finished, copy_of):
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


def test_a_second_snakemake_is_refused_and_harms_nothing(workdir, finished):
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


def test_a_clock_that_was_set_back_is_told_and_mended_by_touch(workdir, finished):
    """What was made before the change lies in the future: what is made from it seems older, which Snakemake refuses."""
    rewards, pairs = f"{RUN}/round-1/step-1/rewards.jsonl", f"{RUN}/round-1/pairs.jsonl"
    done = workdir.run(rewards)
    assert done.returncode == 0, done.stdout
    ahead = time.time() + 3600
    for path in (workdir.path / "results/tiny").rglob("*"):  # the model's files are links to what other tests read
        os.utime(path, (ahead, ahead))
    done = workdir.run(pairs)
    assert done.returncode != 0
    assert "older modification time" in done.stdout
    assert not (workdir.path / pairs).exists()
    done = workdir.run("--touch", "--forceall", rewards)
    assert done.returncode == 0, done.stdout
    done = workdir.run(pairs, "--printshellcmds")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("rule generate:") == 1, "that of step 2: what had been made is kept"
    assert same_as(workdir, finished)


def test_results_may_move(finished, copy_of, tmp_path):
    """To another disk with a link in its place, or all of the folder: nothing is made again, and the rest goes on."""
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
