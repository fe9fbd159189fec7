"""Errors caused by user input."""

import contextlib
import errno
import struct
from collections.abc import Callable, Iterator

# Errors of a full or broken disk.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
LONGEST = 1200  # characters of a message


class InputError(ValueError):
    """Invalid user input. Each message says in one line what is wrong, where, what was found and how to fix it."""

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(map(one_line, messages)))


class SettingError(InputError):
    """An invalid setting. The message starts with the key, to which `section` prepends the section of the config."""


@contextlib.contextmanager
def section(name: str) -> Iterator[None]:
    """Within the context, add the section's name to the keys in messages of SettingErrors."""
    try:
        yield
    except SettingError as error:
        raise InputError(f"{name}.{error}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message. Libraries often append pages of advice."""
    return str(error).strip().split("\n")[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch ran out of memory. torch's errors are recognized by their messages."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


@contextlib.contextmanager
def refused(problem: str, explain: Callable[[Exception], str] | None = None) -> Iterator[None]:
    """Within the context, turn any error of a library that reads a file into an InputError.

    Libraries raise many kinds of errors on damaged files. Errors about memory or disk space are raised unchanged,
    because the file does not cause them.

    Args:
        problem (str): The start of the message: the file and what is wrong with it.
        explain (Callable | None): Returns the reason for an error, which follows in brackets. Default: `reason_of`.
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
    """Return the first line of an error's message, with the type of the error if the message alone may be unclear.

    torch's advice to let a refused checkpoint run code is replaced.
    """
    text = first_line(error)
    if "weights_only" in str(error) or "Weights only" in text:
        return "a pickled file that is damaged or holds more than tensors"
    is_clear = isinstance(error, OSError | ValueError | ImportError | struct.error)
    return text if text and is_clear else f"{type(error).__name__}: {text}"


def printable(text: str, kept: str = "\n\t") -> str:
    """Return a text with non-printable characters escaped, so that they cannot control a terminal or reverse a line.

    Characters in `kept` are not escaped.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """Return a message as one line, with non-printable characters escaped. Very long messages lose their middle."""
    line = printable(text, kept="")
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} ... {line[-300:]}"


def short_repr(value: object) -> str:
    """Return a value's repr as one line of at most 80 characters, or its type if it has no repr (a huge integer)."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
