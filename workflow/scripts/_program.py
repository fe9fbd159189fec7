"""Run a program: flags come from the signature of `main`, and one line has the result or the error."""

import errno
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from prefloop.core.interrupts import INTERRUPTED  # isort: skip  (before imports that take long)
from prefloop.core.errors import DISK, InputError, first_line, is_out_of_memory
from prefloop.core.gpus import lease_requested_gpus
from prefloop.core.joined_steps import run_steps, split_steps
from prefloop.core.json_flags import JSON_FLAGS
from prefloop.core.progress import Summary
from prefloop.core.stage_status import recorded, write_status
from prefloop.core.terminal import escape_output
from prefloop.models.liger import use_liger
from prefloop.models.manifests import trust
from prefloop.models.quantization import quantize

# Errors about a path, which a traceback would not explain.
PATHS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
# Flags that name the manifest of a model, and the functions that record what they say about it.
MODEL_FLAGS: dict[str, Callable[..., None]] = {
    "--trusted-model": trust,  # MANIFEST: the model may run its own code
    "--quantized-model": quantize,  # MANIFEST FORMAT: its weights are quantized to 4 bits
    "--liger-model": use_liger,  # MANIFEST: its policies use Liger's kernels
}


def run(main: Callable[..., Summary | None], joins_steps: bool = False) -> None:
    """Parse the command line into `main`'s keyword arguments, call it, and print the Summary that it returns.

    If a program has several processes, all but the main one return None. With `joins_steps`, `main` is called once per
    step if the command line has the files of several steps.
    """
    program, start = Path(sys.argv[0]).stem, time.perf_counter()
    with recorded(program):
        summary = call(main, joins_steps)
    if summary is not None:
        seconds = time.perf_counter() - start
        warning = {"warning": summary.warning} if summary.warning else {}
        write_status(program, "done", seconds=seconds if summary.seconds is None else summary.seconds, **warning)
        if summary.warning:
            print(f"WARNING: {summary.warning}")
        print(summary.line(program, seconds), flush=True)


def note_models(words: list[str]) -> list[str]:
    """Handle the flags of MODEL_FLAGS at the start of a command line, and return the rest of it."""
    while len(words) > 1 and words[0] in MODEL_FLAGS:
        count = next((i for i, word in enumerate(words[1:], 1) if word.startswith("--")), len(words))
        MODEL_FLAGS[words[0]](Path(words[1]), *words[2:count])
        words = words[count:]
    return words


def call(main: Callable[..., Summary | None], joins_steps: bool = False) -> Summary | None:
    """Call `main` with the command line's arguments; exit with one line for errors that a user can fix.

    The command line may start with flags of models (`MODEL_FLAGS`).
    """
    words = sys.argv[1:]

    @functools.cache
    def prepare() -> None:
        escape_output()  # after the command line is parsed, because help has colors
        lease_requested_gpus()

    @functools.wraps(main)
    def main_prepared(**arguments: Any) -> Summary | None:
        prepare()
        return main(**arguments)

    def call_with(words: list[str]) -> Any:
        return tyro.cli(main_prepared, args=words, config=(tyro.conf.FlagConversionOff,), registry=JSON_FLAGS)

    try:
        words = note_models(words)
        steps = split_steps(words) if joins_steps else [words]
        return call_with(words) if len(steps) == 1 else run_steps(Path(sys.argv[0]).stem, steps, call_with)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in DISK and (error.errno not in PATHS or error.filename is None):
            raise
        path = error.filename2 or error.filename or "writing"
        sys.exit(f"error: {path}: {error.strerror}; incomplete outputs are not kept")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(
            f"error: memory is full ({first_line(error)}); lower this stage's batch_size, train's micro_batch_size"
        )
