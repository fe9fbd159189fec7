"""Ctrl-C ends a program with one line instead of a traceback, also while the program still imports its modules."""

import sys
from types import TracebackType

INTERRUPTED = "error: interrupted by Ctrl-C; start again, and the run continues from the existing files"


def report_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print what ends this process, as `sys.excepthook`."""
    if issubclass(kind, KeyboardInterrupt):
        print(INTERRUPTED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = report_exception  # by the import, so that imports after this one are covered
