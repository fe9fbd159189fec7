"""What a stage tells of itself: how far it is while it runs, and at its end one line that sums it up.

In a terminal a bar (tqdm) moves; in a log file a line is written now and then, for `tail -f` and `make status`.
"""

import io
import re
import sys
import time
from typing import NamedTuple

EVERY = 30.0  # seconds between two lines in a log
SIZES = ((1, "s"), (60, "min"), (3600, "h"))  # of a time told roughly, in seconds
LEFT = re.compile(r"about ([\d,.]+) (s|min|h) left")
TAKEN = re.compile(r"\w+: .* in ((?:[\d.]+ (?:s|min|h)\b ?){1,2})(?:$|\(|,)")


class Summary(NamedTuple):
    """What a program has done, which `main` returns and _program.py prints with its seconds."""

    what: str
    """What and how many: "32 pairs, 8 steps"."""
    count: int = 0
    """How many of what its speed is counted in; 0 tells no speed."""
    unit: str = ""
    """What they are, in the singular."""
    found: str = ""
    """What came out of it, told after the speed."""
    seconds: float | None = None
    """What it took, where a cost meter knows; else as long as `main` ran."""

    def line(self, program: str, seconds: float) -> str:
        """`train: 32 pairs, 8 steps in 9.8 s (3.3 pairs/s), loss 0.6931 -> 0.4120`."""
        seconds = seconds if self.seconds is None else self.seconds
        speed = f" ({rate(self.count, seconds, self.unit)})" if self.count else ""
        return f"{program}: {self.what} in {duration(seconds)}{speed}" + (f", {self.found}" if self.found else "")


class Progress:
    """How far a loop is: `with Progress("score", 512, "response") as progress`, and `progress.update(64)` inside."""

    def __init__(self, stage: str, total: int | None, unit: str, *, done: int = 0, silent: bool = False):
        """`total` is None where nobody knows it, `unit` stands in the singular, `done` were done by an earlier process.

        Of several processes on one stage all but the main one are `silent`.
        """
        self.stage, self.total, self.unit, self.silent = stage, total, unit, silent
        self.earlier, self.done, self.tokens, self.bar = done, done, 0, None
        self.start = self.told = time.monotonic()
        if not silent and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(desc=stage, total=total, unit=f" {unit}s", initial=done, leave=None)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, count: int = 1, tokens: int = 0) -> None:
        """Count what was done, and the tokens that it took where speed is better told in those."""
        self.done += count
        self.tokens += tokens
        if self.silent:
            return
        now = time.monotonic()
        if self.bar is not None:
            if tokens:
                self.bar.set_postfix_str(self.speed(now - self.start), refresh=False)
            self.bar.update(count)
        elif now - self.told >= EVERY and self.done != self.total:
            self.told = now
            print(self.line(now - self.start), flush=True)

    def speed(self, seconds: float) -> str:
        """In tokens if they are counted."""
        return rate(self.tokens or self.done - self.earlier, seconds, "token" if self.tokens else self.unit)

    def line(self, seconds: float) -> str:
        """`generate: 128/512 responses, 41 s, 380 tokens/s, about 2 min left`, so many seconds after its start."""
        of = "" if self.total is None else f"/{self.total:,}"
        words = f"{self.stage}: {self.done:,}{of} {self.unit}s, {duration(seconds)}, {self.speed(seconds)}"
        if self.total is None or self.done == self.earlier:
            return words
        return f"{words}, about {roughly(seconds * (self.total - self.done) / (self.done - self.earlier))} left"


def bar_in_log(stage: str, unit: str) -> type:
    """A tqdm for a library that makes its bar itself (vLLM): it draws none and writes `Progress`'s lines instead."""
    from tqdm import tqdm

    class LogBar(tqdm):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings | {"file": io.StringIO(), "mininterval": 1e9})
            self.lines = Progress(stage, self.total, unit)

        def update(self, n=1):
            self.lines.update(n)
            return super().update(n)

    return LogBar


def rate(count: float, seconds: float, unit: str) -> str:
    """`379 tokens/s`, `3.3 pairs/s`, `0.027 requests/s`."""
    each = count / max(seconds, 1e-3)
    return f"{each:,.0f} {unit}s/s" if each >= 9.95 else f"{each:.2g} {unit}s/s"


def duration(seconds: float) -> str:
    """`6.1 s`, `41 s`, `4 min 12 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """`41 s`, `2 min`, `3.5 h`: as exact as an estimate is."""
    size, unit = next(((size, unit) for size, unit in SIZES if seconds < 99.5 * size), SIZES[-1])
    each = seconds / size
    return f"{each:.1f} {unit}" if unit == "h" and each < 9.95 else f"{each:,.0f} {unit}"


def seconds_in(words: str) -> float:
    """A time as `duration` or `roughly` tell it, in seconds."""
    sizes, parts = {unit: size for size, unit in SIZES}, words.replace(",", "").split()
    return sum(float(number) * sizes[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))


def seconds_left(line: str) -> float | None:
    """What a line of `Progress` says is left, in seconds; None if it says nothing of it."""
    found = LEFT.search(line)
    return seconds_in(f"{found[1]} {found[2]}") if found else None


def seconds_taken(line: str) -> float | None:
    """What a stage took, in seconds, if this is the line that it ends with; else None."""
    found = TAKEN.match(line)
    return seconds_in(found[1]) if found else None
