"""What programs print, without characters that command a terminal, whoever wrote them: a server, a row or a library."""

import re
import sys
from typing import Any

from prefloop.core.errors import printable

BAR_MOVES = re.compile(r"\r|(?:\x1b\[A)+\Z")  # a progress bar starts its line again, or goes back to the bar above


class PrintableStream:
    """A text stream that shows characters that do not print as escapes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text. Cursor moves at its start by which progress bars are drawn stay."""
        match = BAR_MOVES.match(text)
        moves = match[0] if match else ""
        self.stream.write(moves + printable(text[len(moves) :]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def escape_output() -> None:
    """From now on, this process prints no character that commands a terminal."""
    sys.stdout, sys.stderr = PrintableStream(sys.stdout), PrintableStream(sys.stderr)
