"""Run the user's benchmark command on a model folder, and store its score."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _program import run
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.core.gpus import LEASED
from prefloop.core.progress import Summary
from prefloop.evaluation.benchmark_runs import filled, read_number

SECONDS = 10  # from SIGTERM until SIGKILL


def run_command(command: str) -> int:
    """Run a shell command in a session of its own, and return its exit status.

    Processes that the command leaves are ended. Until then, they hold the lease of this process's GPUs.
    """
    handlers = {signal.SIGINT: signal.getsignal(signal.SIGINT), signal.SIGTERM: terminate}
    early: list[int] = []
    for number in handlers:  # an exception within Popen would leave a command that nobody ends
        signal.signal(number, lambda number, _: early.append(number))
    process = subprocess.Popen(
        command, shell=True, stdout=sys.stdout, stderr=sys.stderr, start_new_session=True, pass_fds=LEASED
    )
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in early:
            signal.raise_signal(number)
        return process.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(ProcessLookupError):  # no process of the session is left
            end_session(process)
        process.wait()


def end_session(process: subprocess.Popen) -> None:
    """End the session that a process leads: SIGTERM, then SIGKILL. Raises ProcessLookupError once all have ended."""
    deadline = time.monotonic() + SECONDS
    os.killpg(process.pid, signal.SIGTERM)
    while time.monotonic() < deadline:
        process.poll()  # the leader's entry in the table of processes would keep the session
        os.killpg(process.pid, 0)
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)


def terminate(*_: Any) -> None:
    """Handle SIGTERM by an exception, after which the command is ended."""
    sys.exit(128 + signal.SIGTERM)


def main(*, manifest: Path, policy: str, command: str, file: str, value: tuple[str, ...], output: Path) -> Summary:
    """Run the command in a shell, in the run's working directory.

    Args:
        manifest: Manifest of the model, next to its other files.
        policy: Name of the policy, for {policy}.
        command: A shell command; {model} is the model's folder and {output} an empty folder for its files.
        file: Glob pattern of the JSON file that the command writes below {output}.
        value: Keys that lead to the score in that file.
        output: Output path for the score.
    """
    folder = output.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = {"model": str(manifest.parent), "output": str(folder), "policy": policy}
    sys.stdout.flush()
    if status := run_command(filled(command, words)):
        raise InputError(f"evaluation.benchmark.command: exit status {status}; its output is above, in the log")
    number = read_number(folder, file, value)
    write_json(output, {"value": number})
    return Summary(f"benchmark of {policy}", result=f"{number:g}")


run(main)
