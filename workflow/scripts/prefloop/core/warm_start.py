"""Starts a program as a fork of the warm process, which has already imported the large packages.

The first program that needs the warm process starts it. Others find it by a Unix socket in a folder that only this user
can open. The name of the socket is the key of `inherited_attributes`. The process that requests a program, the client,
runs until the program ends: it forwards signals to the program and exits with the program's status. If the client is
killed, the warm process kills the program. If the warm process fails, the program starts in a new process instead.
"""

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from prefloop.core.inherited_attributes import attributes_key

MESSAGE = struct.Struct("!ci")  # one of the kinds below, and a number
STARTED, ENDED, REFUSED = b"S", b"E", b"R"  # process id; wait status; 0
FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGTSTP")
IDLE = 60.0  # seconds without a program after which the warm process ends
LONGEST_PATH = 100  # bytes of a socket's path


class WarmStartError(Exception):
    """The warm process cannot start the program."""


def start(server: Path, words: list[str]) -> NoReturn:
    """Run a Python program and end with its exit status or signal.

    Args:
        server: The program of the warm process.
        words: The program and its flags.
    """
    if sys.platform == "linux" and hasattr(os, "pidfd_open") and os.access(words[0], os.R_OK):
        try:
            run_forked(server, words)
        except (WarmStartError, OSError) as error:
            os.write(2, debug_line(words[0], error).encode())
    os.execv(sys.executable, [sys.orig_argv[0], *words])


def debug_line(program: str, error: Exception) -> str:
    """Return the line for the log of a program that the warm process cannot start."""
    return f"debug: {Path(program).name} starts in a new process: {' '.join(str(error).split())}\n"


def run_forked(server: Path, words: list[str]) -> NoReturn:
    """Run a program as a fork of the warm process and end with its exit status or signal.

    Raises:
        WarmStartError: The program has not started, or was killed because the warm process ended.
        OSError: The same, because of an error of the operating system.
    """
    for _ in range(2):  # a warm process whose packages have changed refuses and ends; the next one accepts
        connection = connect(server, socket_folder())
        send_request(connection, words)
        kind, number = receive(connection)
        if kind == STARTED:
            end_as(follow(connection, number))
        if kind == ENDED:  # killed at once
            end_as(number)
    raise WarmStartError("the warm process has refused it twice")


def socket_folder() -> Path:
    """Return the folder of this user's sockets, which nobody else can open."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(runtime if Path(runtime).is_dir() and runtime else "/tmp", f"prefloop-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise WarmStartError(f"{folder} is not a folder that only this user can open")
    return folder


def connect(server: Path, folder: Path) -> socket.socket:
    """Connect to the warm process with this process's key. Start it first if it is not running."""
    path = folder / f"{attributes_key(server)}.socket"
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise WarmStartError(f"{path}: longer than {LONGEST_PATH} bytes")
    connection = socket.socket(socket.AF_UNIX)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # if several programs start at once, only one starts the warm process
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
            start_server(server, path)
            connection.connect(str(path))
    return connection


def start_server(server: Path, path: Path) -> None:
    """Start the warm process, which listens on a socket that already exists: connections wait while it imports."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)
        subprocess.Popen(
            [sys.executable, str(server), str(listener.fileno()), str(path), str(IDLE)],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )


def send_request(connection: socket.socket, words: list[str]) -> None:
    """Request a program with this process's standard streams, working directory and environment."""
    request = {"argv": [sys.orig_argv[0], *words], "environment": dict(os.environ)}
    content = json.dumps(request).encode()
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    socket.send_fds(connection, [struct.pack("!I", len(content))], [0, 1, 2, folder])
    os.close(folder)
    connection.sendall(content)


def receive(connection: socket.socket) -> tuple[bytes, int]:
    """Receive a message: its kind and its number.

    Raises:
        WarmStartError: The warm process has ended.
    """
    content = b""
    while len(content) < MESSAGE.size:
        try:
            part = connection.recv(MESSAGE.size - len(content))
        except ConnectionError:
            part = b""
        if not part:
            raise WarmStartError("the warm process has ended")
        content += part
    kind, number = MESSAGE.unpack(content)
    return kind, number


def follow(connection: socket.socket, pid: int) -> int:
    """Forward signals until the program ends, and return its wait status.

    Raises:
        WarmStartError: The warm process has ended. The program is killed, because its exit status would be lost.
    """

    def forward(number: int, _: FrameType | None) -> None:
        stops = number == signal.SIGTSTP
        with contextlib.suppress(OSError):  # the warm process has ended, which `receive` notices
            connection.sendall(bytes([signal.SIGSTOP if stops else number]))
        if stops:
            os.kill(os.getpid(), signal.SIGSTOP)

    try:
        program = os.pidfd_open(pid)
    except ProcessLookupError:  # it has ended already
        program = None
    for name in FORWARDED:
        if signal.getsignal(number := getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(number, forward)
    try:
        return receive(connection)[1]
    except WarmStartError:
        if program is not None:
            signal.pidfd_send_signal(program, signal.SIGKILL)
            select.select([program], [], [])
        for name in FORWARDED:
            if signal.getsignal(number := getattr(signal, name)) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        raise


def end_as(status: int) -> NoReturn:
    """End this process with the exit status or the signal that ended another one."""
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    # The program has already dumped its core.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    number = os.WTERMSIG(status)
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError("a signal that ends other processes ends this one")
