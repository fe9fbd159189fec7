"""How every program here starts: flags from the signature of `main`, bad input as one line, no traceback."""

import errno
import sys
from collections.abc import Callable

import tyro

from prefloop.rows import InputError

# Not a mistake of the program's, and nothing that a traceback would explain.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}


def run(main: Callable) -> None:
    """Parse the command line into `main`'s keyword arguments and call it.

    Underscores become dashes, a dataclass argument becomes flags of its fields, docstrings become --help.
    """
    try:
        tyro.cli(main, config=(tyro.conf.FlagConversionOff,))
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in DISK:
            raise
        sys.exit(f"error: {error.filename or 'writing'}: {error.strerror}; nothing half-written is kept")
