"""Runs Snakemake as a fork of a process that has already imported it, which saves seconds per run."""

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prefloop.core.warm_start import ENDED, STARTED, WarmStartError, connect, receive, socket_folder

FOLDER = Path(__file__).parent / "warm_snakemake"
SOCKETS = socket_folder()  # before a test sets another folder, for programs that it looks at


def run_snakemake(arguments: Sequence[str], folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run `python -m snakemake` with arguments in a folder, as subprocess.run would.

    All forks have the same hash seed, so a test that depends on the order of sets must start new processes.

    Args:
        variables: Environment variables that differ from those of this process.

    Returns:
        `.returncode`, and in `.stdout` standard output and standard error.

    Raises:
        WarmStartError: The process cannot be forked.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | variables
    command = [sys.executable, "-m", "snakemake", *arguments]
    if sys.platform != "linux":  # only Linux has warm processes
        return subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as output:  # noqa: PTH123
        connection = request(arguments, folder, environment, writing)
        with connection:
            text = output.read()
            kind, status = receive(connection)
    assert kind == ENDED
    return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(status), text)


def request(arguments: Sequence[str], folder: Path, environment: dict[str, str], writing: int) -> socket.socket:
    """Start Snakemake, close the descriptor `writing` of its output here, and return the connection.

    Raises:
        WarmStartError: The process cannot be forked.
    """
    argv = [sys.executable, str(FOLDER / "run.py"), *arguments]
    content = json.dumps({"argv": argv, "environment": environment}).encode()
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        for _ in range(2):  # a process whose packages have changed refuses and ends; the next one accepts
            connection = connect(FOLDER / "serve.py", SOCKETS)
            socket.send_fds(connection, [struct.pack("!I", len(content))], [0, writing, writing, opened])
            connection.sendall(content)
            if receive(connection)[0] == STARTED:
                return connection
            connection.close()
    finally:
        os.close(opened)
        os.close(writing)
    raise WarmStartError("the process with Snakemake has refused twice")
