"""Escapes control characters in the output of programs. They can come from a server, a row or a library."""

import re
import sys
from typing import Any

from prefloop.core.errors import printable

BAR_MOVES = re.compile(r"\r|(?:\x1b\[A)+\Z")  # a progress bar returns to the start of its line, or to the bar above


class PrintableStream:
    """A text stream that escapes non-printable characters."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text. Cursor moves of progress bars at its start are not escaped."""
        match = BAR_MOVES.match(text)
        moves = match[0] if match else ""
        self.stream.write(moves + printable(text[len(moves) :]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts like `write`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def escape_output() -> None:
    """Escape control characters in all further output of this process."""
    sys.stdout, sys.stderr = PrintableStream(sys.stdout), PrintableStream(sys.stderr)
