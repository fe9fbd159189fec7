"""Runs a program: flags from the signature of `main`, and one line with the result or the error."""

import errno
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from prefloop.core.errors import DISK, InputError, first_line, is_out_of_memory
from prefloop.core.gpus import lease_requested_gpus
from prefloop.core.joined_steps import run_steps, split_steps
from prefloop.core.json_flags import JSON_FLAGS
from prefloop.core.progress import Summary
from prefloop.core.stage_status import recorded, write_status
from prefloop.core.terminal import escape_output
from prefloop.models.manifests import trust
from prefloop.models.quantization import quantize

# Errors of a path, which a traceback would not explain.
PATHS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


def run(main: Callable[..., Summary | None], joins_steps: bool = False) -> None:
    """Parse the command line into `main`'s keyword arguments, call it, and print the Summary that it returns.

    Of several processes of one program, all but the main one return None. With `joins_steps`, `main` is called once per
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


def call(main: Callable[..., Summary | None], joins_steps: bool = False) -> Summary | None:
    """Call `main` with the command line's arguments; exit with one line for errors that a user can fix.

    Before them may come `--trusted-model MANIFEST`, once for each model that the config lets run its own code, and then
    `--quantized-model MANIFEST FORMAT` for a base model whose weights are read in 4 bits.
    """
    words = sys.argv[1:]
    while words[:1] == ["--trusted-model"] and len(words) > 1:
        trust(Path(words[1]))
        words = words[2:]
    quantized, words = (words[1:3], words[3:]) if words[:1] == ["--quantized-model"] else ([], words)

    @functools.cache
    def prepare() -> None:
        escape_output()  # after the command line is parsed, as help has colors
        lease_requested_gpus()

    @functools.wraps(main)
    def main_prepared(**arguments: Any) -> Summary | None:
        prepare()
        return main(**arguments)

    def call_with(words: list[str]) -> Any:
        return tyro.cli(main_prepared, args=words, config=(tyro.conf.FlagConversionOff,), registry=JSON_FLAGS)

    try:
        if quantized:
            quantize(Path(quantized[0]), quantized[1])
        steps = split_steps(words) if joins_steps else [words]
        return call_with(words) if len(steps) == 1 else run_steps(Path(sys.argv[0]).stem, steps, call_with)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted by Ctrl-C; start again, and the run goes on from what is there")
    except OSError as error:
        if error.errno not in DISK and (error.errno not in PATHS or error.filename is None):
            raise
        sys.exit(
            f"error: {error.filename2 or error.filename or 'writing'}: {error.strerror}; nothing half-written is kept"
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(
            f"error: memory is full ({first_line(error)}); lower this stage's batch_size, train's micro_batch_size"
        )
