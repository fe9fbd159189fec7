"""Run a program like `python program flags`, but without waiting for imports: `python _start.py program flags`."""

import sys
from pathlib import Path

import prefloop.core.interrupts  # noqa: F401
from prefloop.core.warm_start import start

if __name__ == "__main__":
    start(Path(__file__).resolve().with_name("_warm_process.py"), sys.argv[1:])
