"""Time and memory limits for a block of code that processes hostile input."""

import contextlib
import faulthandler
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GIB = 2**30
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(field: str) -> int:
    """Return this process's memory in bytes: VmRSS (now), VmHWM (peak) or VmSize (address space)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def limited(seconds: float = 10.0, memory_bytes: int = GIB) -> Iterator[None]:
    """Fail the test if the block takes more time or more additional memory than allowed.

    `memory_bytes` limits the resident memory. The address space is limited to three times as much, so that a
    decompression bomb raises MemoryError before it harms the machine. Code that does not return to Python within three
    times the allowed time ends the process.
    """

    def fail(*_: Any) -> None:
        pytest.fail(f"took more than {seconds:g} seconds")

    PEAK.write_text("5")  # sets VmHWM to VmRSS
    before, allowed = memory("VmRSS"), resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, fail)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + 3 * memory_bytes, allowed[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, allowed)
    if (used := memory("VmHWM") - before) > memory_bytes:
        pytest.fail(f"used {used / GIB:.2f} GiB, more than {memory_bytes / GIB:.2f}")
