"""Files are complete or absent and synced where it matters; files of killed writers are removed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from prefloop.core.errors import InputError
from prefloop.core.files import atomic_write, read_json, write_json, write_tensors
from prefloop.feedback.server_judge import AnswerCache

WRITER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from prefloop.core.files import atomic_write
with atomic_write(sys.argv[2]) as partial:
    partial.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
    partial.write_text("whole")
"""


def start_writer(path: Path) -> subprocess.Popen:
    """Start a process that writes half of a file, and the whole file once its stdin is closed."""
    command = [sys.executable, "-c", WRITER, str(ROOT / "workflow/scripts"), str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_partial_file_of_a_killed_process_is_swept(tmp_path):
    """The next write to the folder removes it, even if it writes another file."""
    with start_writer(tmp_path / "rows.jsonl") as process:
        os.kill(process.pid, signal.SIGKILL)
    assert len(names(tmp_path)) == 1
    write_json(tmp_path / "other.json", {})
    assert names(tmp_path) == {"other.json"}


def test_partial_file_of_a_running_process_is_kept(tmp_path):
    """The file's age and process id do not matter."""
    with start_writer(tmp_path / "rows.jsonl") as process:
        (partial,) = tmp_path.iterdir()
        os.utime(partial, (0, 0))
        renamed = partial.rename(tmp_path / ".rows.jsonl.999999999.partial")  # as if written on another machine
        write_json(tmp_path / "other.json", {})
        assert names(tmp_path) == {renamed.name, "other.json"}
        renamed.rename(partial)
        process.communicate()
    assert (tmp_path / "rows.jsonl").read_text() == "whole"
    assert names(tmp_path) == {"rows.jsonl", "other.json"}


@pytest.mark.parametrize("name", ["mine.partial", ".mine.partial", ".mine.1.partial.txt", ".hidden"])
def test_other_files_are_not_swept(tmp_path, name):
    (tmp_path / name).write_text("x")
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / name).read_text() == "x"


def test_planted_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".a.json.1.partial").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "precious").read_text() == "x"


def test_threads_write_a_file_one_after_the_other(tmp_path):
    """The second writer waits for the first."""
    from threading import Thread

    def write(text: str) -> None:
        with atomic_write(tmp_path / "a") as partial:
            partial.write_text(text[:1])
            time.sleep(0.05)
            partial.write_text(text)

    threads = [Thread(target=write, args=[letter * 1000]) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in ("a" * 1000, "b" * 1000)
    assert names(tmp_path) == {"a"}


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, str]]:
    """Records (call, file name) of every sync and rename in order."""
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        calls.append(("rename", Path(target).name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    return calls


def test_policies_and_states_are_synced_around_the_rename(tmp_path, calls):
    """First the content is synced, then the file is renamed and its folder synced."""
    write_tensors(tmp_path / "policy/policy.pt", {"a": torch.ones(3)})
    partial = f".policy.pt.{os.getpid()}.partial"
    assert calls == [("sync", partial), ("rename", "policy.pt"), ("sync", "policy")]


def test_cached_answers_are_synced(tmp_path, calls):
    cache, answer = AnswerCache(tmp_path, "http://localhost/v1"), {"answer": "A", "prompt_tokens": 1}
    cache.write({"model": "m"}, answer)
    assert [call for call, _ in calls] == ["sync", "rename", "sync"]
    assert read_json(cache.path({"model": "m"})) == answer


def test_other_files_are_not_synced(tmp_path, calls):
    write_json(tmp_path / "a.json", {})
    assert calls == [("rename", "a.json")]


def test_huge_json_file_is_refused_before_reading(tmp_path):
    """The file is sparse: its 100 GB take no disk space."""
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate(100 * 10**9)
    with pytest.raises(InputError, match=r"manifest.json: 100000000000 bytes, expected .* at most"):
        read_json(path)
