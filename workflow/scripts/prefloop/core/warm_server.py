"""The warm process. It forks one program per connection, forwards signals to it and reports its exit status."""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prefloop.core.warm_start import ENDED, MESSAGE, REFUSED, STARTED

REQUEST_TIMEOUT = 10.0  # seconds to receive a request, which its client sends at once


@dataclass
class StartRequest:
    """A program to start."""

    argv: list[str]
    """The Python command that started the client, the program and its flags."""
    environment: dict[str, str]
    """Environment variables of the program."""
    descriptors: list[int]
    """Standard input, output and error of the program, and its working directory."""


@dataclass
class Fork:
    """A running program."""

    pid: int
    handle: int
    """The program's pidfd, which becomes readable when the program ends."""
    client: socket.socket


class WarmServer:
    """Serves the connections of a listening socket."""

    def __init__(self, listener: socket.socket, path: Path, idle: float, files: Iterable[Path]) -> None:
        """Prepare to serve.

        Args:
            listener: The listening socket.
            path: The socket's path, which is deleted when the server stops listening.
            idle: Seconds without a program after which the server ends.
            files: Files that the server has imported. If one of them changes, the server ends after its last program.
        """
        self.listener, self.path, self.idle = listener, path, idle
        self.listens = True
        self.states = {file: file_state(file) for file in files}
        self.forks: dict[int, Fork] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)

    def serve(self) -> StartRequest | None:
        """Serve until the server is no longer needed, and return None. In a forked process, return the request."""
        while True:
            events = self.selector.select(self.idle if self.listens and not self.forks else None if self.forks else 0)
            for key, _ in events:
                if key.fileobj is self.listener:
                    if request := self.accept():
                        return request
                elif isinstance(key.data, Fork):
                    self.handle(key.fileobj, key.data)
            if not events and not self.forks:
                if not self.listens:
                    return None
                # A connection that a client makes at this moment is still accepted.
                self.stop_listening()

    def stop_listening(self) -> None:
        """Delete the socket, so that the next client starts another server with a socket at the same path."""
        if self.listens:
            self.path.unlink(missing_ok=True)
        self.listens = False

    def accept(self) -> StartRequest | None:
        """Accept a connection and fork. In the forked process, return the request."""
        client, _ = self.listener.accept()
        client.settimeout(REQUEST_TIMEOUT)
        request = None
        try:
            if peer_user(client) == os.getuid():
                request = receive_request(client)
            if request is None:
                client.close()
                return None
            if any(file_state(file) != state for file, state in self.states.items()):
                self.stop_listening()
                client.sendall(MESSAGE.pack(REFUSED, 0))
                client.close()
                pid = -1
            else:
                pid = os.fork()
        except (OSError, ValueError):  # the client has ended, or the system cannot start another process
            client.close()
            pid = -1
        if pid == 0:
            # The fork sends this, not the server: if the server ends now, the client knows which process to kill.
            client.sendall(MESSAGE.pack(STARTED, os.getpid()))
            client.close()
            self.close()
            return request
        for descriptor in request.descriptors if request else []:
            os.close(descriptor)
        if pid > 0:
            self.watch(Fork(pid, os.pidfd_open(pid), client))
        return None

    def watch(self, fork: Fork) -> None:
        """Watch a program and its client."""
        self.forks[fork.pid] = fork
        self.selector.register(fork.handle, selectors.EVENT_READ, fork)
        self.selector.register(fork.client, selectors.EVENT_READ, fork)

    def handle(self, source: object, fork: Fork) -> None:
        """Forward a client's signals to its program, or report the end of the program to the client."""
        if fork.pid not in self.forks:
            return
        if source is fork.client:
            try:
                numbers = fork.client.recv(64)
            except OSError:
                numbers = b""
            if not numbers:
                self.selector.unregister(fork.client)
            for number in numbers or bytes([signal.SIGKILL]):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fork.handle, number)
            return
        _, status = os.waitpid(fork.pid, 0)
        del self.forks[fork.pid]
        for watched in (fork.handle, fork.client):
            with contextlib.suppress(KeyError):
                self.selector.unregister(watched)
        with contextlib.suppress(OSError):
            fork.client.sendall(MESSAGE.pack(ENDED, status))
        os.close(fork.handle)
        fork.client.close()

    def close(self) -> None:
        """Close the server's descriptors in a forked process."""
        self.selector.close()
        self.listener.close()
        for fork in self.forks.values():
            os.close(fork.handle)
            fork.client.close()


def receive_request(client: socket.socket) -> StartRequest | None:
    """Receive a request to start a program; None if the connection ends first."""
    size = struct.calcsize("!I")
    head, descriptors, _, _ = socket.recv_fds(client, size, 4)
    content = b""
    if len(head) == size and len(descriptors) == 4:
        (length,) = struct.unpack("!I", head)
        while len(content) < length and (part := client.recv(length - len(content))):
            content += part
        if len(content) == length:
            return StartRequest(**json.loads(content), descriptors=list(descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    return None


def peer_user(client: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket."""
    _, user, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return user


def file_state(path: Path) -> tuple[int, int] | None:
    """Return the modification time (ns) and size (bytes) of a file; None if it does not exist."""
    try:
        info = os.stat(path)  # noqa: PTH116 - faster for thousands of files
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size


def imported_files(scripts: Path) -> list[Path]:
    """Return the files of all imported modules and the folders where Python looks for packages, except `scripts`."""
    files = [module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
    return [*map(Path, filter(None, files)), *(path for path in map(Path, sys.path) if path.resolve() != scripts)]


def check_forkable() -> None:
    """Exit if forks of this process would not work like new processes: it has threads, or has opened a GPU."""
    if threading.active_count() > 1:
        sys.exit("error: an import has started a thread")
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()).startswith("/dev/nvidia"):
                sys.exit("error: an import has opened a GPU, which forks cannot use")
    gc.collect()
    gc.freeze()  # so that forks share the memory of imported modules
