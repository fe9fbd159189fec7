"""The status of a stage as a JSON file next to its log, which `make status` reads.

The rule that starts a program names the log in the environment variable PREFLOOP_LOG. The variable is not a parameter
of the rule, so it does not cause reruns. A program that is started without the variable does not write a status.
"""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from prefloop.core.errors import InputError
from prefloop.core.files import read_json, write_json

LOG_VARIABLE = "PREFLOOP_LOG"


def status_file(log: Path) -> Path:
    """The status file of the stage that writes this log."""
    return Path(log).with_suffix(".status.json")


def write_status(stage: str, state: str, **progress: float | str | None) -> None:
    """Write the status of this process's stage.

    Args:
        stage: Name of the program, or of the loop that it is in.
        state: running, done, failed, or stopped (by Ctrl-C or SIGTERM).
        progress: `done` and `total` in `unit`s, `tokens`, `seconds` and `seconds_left`, as far as they are known,
            and a `warning` about the result.
    """
    log = os.environ.get(LOG_VARIABLE)
    if not log or os.environ.get("RANK", "0") != "0":  # of several processes, only the main one writes
        return
    process = {"host": socket.gethostname(), "pid": os.getpid(), "updated": round(time.time(), 3)}
    # The stage continues without a status. If the disk is full, writing its output will fail.
    with contextlib.suppress(OSError):
        write_json(status_file(Path(log)), {"stage": stage, "state": state} | progress | process)


@contextlib.contextmanager
def recorded(stage: str) -> Iterator[None]:
    """Write the status of a stage when it starts, and when it ends with an exception."""
    write_status(stage, "running")
    try:
        yield
    except BaseException as error:
        terminated = isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        write_status(stage, "stopped" if terminated or interrupted else "failed")
        raise


def read_status(log: Path) -> dict | None:
    """The status of the stage that writes this log; None if there is none."""
    try:
        return read_json(status_file(log))
    except InputError:  # not written yet, or deleted by hand
        return None


def mark_failed(log: Path, started: float) -> None:
    """Write that a stage has failed, unless its process has written "failed" or "done" since `started` (mtime, s).

    The state "stopped" is replaced too: if Snakemake reports a failure, a scheduler stopped the process, not the user.
    """
    path = status_file(log)
    status = read_status(log)
    if status is None or path.stat().st_mtime < started or status["state"] in ("running", "stopped"):
        write_json(path, {"stage": Path(log).stem, "state": "failed", "updated": round(time.time(), 3)})
