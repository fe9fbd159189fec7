"""The process that imports what programs import, and forks them. _start.py starts it and connects to it."""

import contextlib
import os
from importlib import import_module
from pathlib import Path

from prefloop.core.forked_program import serve_programs

# Packages of several programs. Modules of the project are not among them: each program reads its own.
# matplotlib is not, as it reads a file of the working directory when it is imported.
PACKAGES = ("tyro", "typeguard", "pandas", "fontTools.subset", "torch", "peft", "accelerate")


def import_packages() -> None:
    """Import packages. A program that needs one that is missing reports it."""
    # torch looks for GPUs without opening them, as a fork could not use one that is open.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            import_module(name)
    with contextlib.suppress(ImportError):
        from prefloop.models.startup import load_transformers

        load_transformers()


if __name__ == "__main__":
    serve_programs(import_packages, Path(__file__).resolve().parent)
