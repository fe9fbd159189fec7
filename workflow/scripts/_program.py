"""How every program here starts and ends: flags from the signature of `main`, one line of what was done or is wrong."""

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path

import tyro

from prefloop.rows import InputError, first_line

# Not a mistake of the program's, and nothing that a traceback would explain.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
PATHS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


def run(main: Callable) -> None:
    """Parse the command line into `main`'s keyword arguments, call it, and print the Summary that it returns.

    Of several processes of one program all but the main one return None.
    Underscores become dashes, a dataclass argument becomes flags of its fields, docstrings become --help.
    """
    start = time.perf_counter()
    try:
        summary = tyro.cli(main, config=(tyro.conf.FlagConversionOff,))
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
        if not is_full(error):
            raise
        sys.exit(
            f"error: memory is full ({first_line(error)}); lower this stage's batch_size, train's micro_batch_size"
        )
    if summary is not None:
        print(summary.line(Path(sys.argv[0]).stem, time.perf_counter() - start), flush=True)


def is_full(error: Exception) -> bool:
    """Whether Python, NumPy or torch has found no memory; torch says so in two ways, and need not be there."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
