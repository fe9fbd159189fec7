"""Errors caused by user input."""

import contextlib
import errno
import struct
from collections.abc import Callable, Iterator

# A full or broken disk.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
LONGEST = 1200  # characters of a message


class InputError(ValueError):
    """Invalid user input: each message says in one line what is wrong, where, what was found and how to fix it."""

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(map(one_line, messages)))


class SettingError(InputError):
    """An invalid setting. The message starts with its name within its section; `section` puts the section in front."""


@contextlib.contextmanager
def section(name: str) -> Iterator[None]:
    """Within the context, settings in error messages are named with their section of the config."""
    try:
        yield
    except SettingError as error:
        raise InputError(f"{name}.{error}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message; libraries often append pages of advice."""
    return str(error).strip().split("\n")[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch ran out of memory; torch's errors are recognized by their two messages."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


@contextlib.contextmanager
def refused(problem: str, explain: Callable[[Exception], str] | None = None) -> Iterator[None]:
    """Within the context any error of a library that reads a file is an InputError: `problem`, and why in brackets.

    Libraries raise errors of every kind on damaged files. Lack of memory or disk space is not the file's fault and
    passes.

    Args:
        problem (str): What is wrong with which file.
        explain (Callable | None): Says why; by default the first line of the error.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in DISK):
            raise
        raise InputError(f"{problem} ({(explain or reason_of)(error)})") from error


def reason_of(error: Exception) -> str:
    """The first line of an error's message, with the kind of error where the message alone says little.

    torch advises to let a refused checkpoint run code; that advice is left out.
    """
    text = first_line(error)
    if "weights_only" in str(error) or "Weights only" in text:
        return "a pickled file that is damaged or holds more than tensors"
    speaks = isinstance(error, OSError | ValueError | ImportError | struct.error)
    return text if text and speaks else f"{type(error).__name__}: {text}"


def printable(text: str, kept: str = "\n\t") -> str:
    """A text whose characters that do not print are escapes, so that they cannot command a terminal or reverse a line.

    Those in `kept` stay as they are.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """A message in one line: characters that do not print as escapes, and without its middle if it is very long."""
    line = printable(text, kept="")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} ... {line[-300:]}"


def short_repr(value: object) -> str:
    """A value in one line of at most 80 characters; its type if it has no repr, such as an integer of 5,000 digits."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
