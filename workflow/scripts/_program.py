"""How every program here starts: flags from the signature of `main`, bad input as one line, no traceback."""

import sys
from collections.abc import Callable

import tyro

from prefloop.rows import InputError


def run(main: Callable) -> None:
    """Parse the command line into `main`'s keyword arguments and call it.

    Underscores become dashes, a dataclass argument becomes flags of its fields, docstrings become --help.
    """
    try:
        tyro.cli(main, config=(tyro.conf.FlagConversionOff,))
    except InputError as error:
        sys.exit(f"error: {error}")
