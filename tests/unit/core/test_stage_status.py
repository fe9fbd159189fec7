"""A stage writes its status next to its log while it runs and when it ends, even with an error."""

import json
import os
import signal
import subprocess
import sys

import pytest

from conftest import ROOT
from prefloop.core import progress
from prefloop.core.progress import Progress, bar_in_log
from prefloop.core.stage_status import LOG_VARIABLE, read_status, recorded, status_file, write_status


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "logs/train.log"
    monkeypatch.setenv(LOG_VARIABLE, str(path))
    return path


@pytest.fixture
def clock(monkeypatch):
    """A clock in seconds that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_status_has_state_process_and_time(log):
    write_status("train", "done", seconds=3.5)
    status = json.loads(status_file(log).read_text())
    assert status_file(log).name == "train.status.json"
    assert (status["stage"], status["state"], status["seconds"], status["pid"]) == ("train", "done", 3.5, os.getpid())
    assert status["host"] and status["updated"] > 1e9


def test_without_a_log_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(LOG_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    write_status("train", "running")
    assert list(tmp_path.iterdir()) == []


def test_only_the_main_process_writes(log, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    write_status("train", "running")
    assert read_status(log) is None


def test_write_errors_do_not_end_the_stage(log, tmp_path):
    log.parent.write_text("a file where the folder should be")
    write_status("train", "running")
    assert list(tmp_path.iterdir()) == [log.parent]


def test_progress_is_written_every_five_seconds(log, clock):
    with Progress("train", 40, "pair", done=20) as bar:
        assert (read_status(log)["done"], read_status(log)["seconds_left"]) == (20, None)
        clock[0] += 4.0
        bar.update(5, tokens=100)
        assert read_status(log)["done"] == 20
        clock[0] += 4.0
        bar.update(5, tokens=100)
        status = read_status(log)
    amounts = {"done": 30, "total": 40, "unit": "pair", "tokens": 200, "seconds": 8.0, "seconds_left": 8.0}
    assert {name: status[name] for name in amounts} == amounts and status["state"] == "running"


def test_only_the_outermost_loop_is_written(log, clock):
    with Progress("reward", 8, "response") as outer:
        with Progress("judge", 3, "question") as inner:
            clock[0] += 10.0
            inner.update()
            assert read_status(log)["stage"] == "reward"
        outer.update()
        assert read_status(log)["done"] == 1
    with Progress("train", 1, "pair"):
        assert read_status(log)["stage"] == "train"


def test_bar_of_a_library_is_written(log, clock):
    """The loop around vLLM's bar makes no progress until the bar is done."""
    with Progress("generate (policy)", 8, "response"):
        bar = bar_in_log("generate", "response")(total=8)
        clock[0] += 10.0
        bar.update(2)
        assert (read_status(log)["done"], read_status(log)["seconds_left"]) == (2, 30.0)


def test_silent_loop_writes_nothing(log):
    with Progress("train", 1, "pair", silent=True):
        assert read_status(log) is None


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (KeyError("x"), "failed"),
        (SystemExit("error: bad input"), "failed"),
        (SystemExit(128 + signal.SIGTERM), "stopped"),
        (KeyboardInterrupt(), "failed"),
    ],
)
def test_state_at_the_end_of_a_stage(log, error, state):
    with pytest.raises(type(error)), recorded("train"):
        assert read_status(log)["state"] == "running"
        raise error
    assert read_status(log)["state"] == state


PROGRAM = """
import sys
sys.argv[0] = "stage.py"
from _program import run
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary

def main(*, end: str) -> Summary:
    if end == "bad":
        raise InputError("bad input")
    if end == "ctrl-c":
        raise KeyboardInterrupt
    return Summary("1 pair", seconds=7.5 if end == "meter" else None)

run(main)
"""


@pytest.mark.parametrize(
    ("end", "state", "seconds"),
    [("meter", "done", 7.5), ("clock", "done", 0.0), ("bad", "failed", None), ("ctrl-c", "stopped", None)],
)
def test_program_records_its_end(log, end, state, seconds):
    """The duration comes from the cost meter, if any, because it includes interrupted parts."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")}
    subprocess.run([sys.executable, "-c", PROGRAM, "--end", end], env=environment, capture_output=True, check=False)
    status = read_status(log)
    assert (status["stage"], status["state"]) == ("stage", state)
    assert status.get("seconds") == (seconds if seconds is None else pytest.approx(seconds, abs=0.5))
