"""A process that imports the packages of programs once, and forks a process per program; started by _start.py."""

import contextlib
import os
from importlib import import_module
from pathlib import Path

from prefloop.core.forked_program import serve_programs

# Packages that several programs import. Modules of the project are left out, so that each program reads its own
# version.
PACKAGES = ("matplotlib.pyplot", "tyro", "typeguard", "pandas", "fontTools.subset", "torch", "peft", "accelerate")


def import_packages() -> None:
    """Import packages. A missing package is reported by the program that needs it."""
    # torch looks for GPUs without opening them, because forks could not use an open one.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            import_module(name)
    with contextlib.suppress(ImportError):
        from prefloop.models.startup import load_transformers

        load_transformers()


if __name__ == "__main__":
    serve_programs(import_packages, Path(__file__).resolve().parent)
