"""A stage's progress while it runs, and one summary line at its end.

In a terminal a progress bar (tqdm) moves. A log file gets a line every 30 seconds, for `tail -f`. The status file, for
`make status`, is written every 5 seconds.
"""

import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefloop.core.stage_status import write_status

if TYPE_CHECKING:
    from tqdm import tqdm

LOG_INTERVAL = 30.0  # seconds between two lines in a log
STATUS_INTERVAL = 5.0  # seconds between two writes of the status file
UNIT_SECONDS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Summary:
    """Summary of a program's work. `main` returns it and _program.py prints it."""

    work: str
    """What was processed, with counts: "32 pairs, 8 steps"."""
    count: int = 0
    """Number of units, from which the speed is computed. If it is 0, no speed is printed."""
    unit: str = ""
    """Name of a unit, in the singular."""
    result: str = ""
    """The result, printed after the speed."""
    seconds: float | None = None
    """Duration that a cost meter has measured; None for the duration of `main`."""
    warning: str = ""
    """A probable problem with the result and how to fix it, in one line."""

    def line(self, program: str, seconds: float) -> str:
        """`train: 32 pairs, 8 steps in 9.8 s (3.3 pairs/s), loss 0.6931 -> 0.4120`."""
        seconds = seconds if self.seconds is None else self.seconds
        speed = f" ({rate(self.count, seconds, self.unit)})" if self.count else ""
        return f"{program}: {self.work} in {duration(seconds)}{speed}" + (f", {self.result}" if self.result else "")


class Progress:
    """Progress of a loop: `with Progress("score", 512, "response") as progress`, and `progress.update(64)` inside.

    Of nested loops, the outermost writes the status file, unless an inner loop processes the same units.
    """

    outermost: "Progress | None" = None

    def __init__(self, stage: str, total: int | None, unit: str, *, done: int = 0, silent: bool = False) -> None:
        """Start to show progress.

        Args:
            stage: Name of the stage.
            total: Number of units; None if unknown.
            unit: Name of a unit, in the singular.
            done: Units that an interrupted run has done.
            silent: Show nothing; for all processes of a stage except the main one.
        """
        self.stage, self.total, self.unit, self.silent = stage, total, unit, silent
        self.done_before, self.done, self.tokens = done, done, 0
        self.bar: tqdm | None = None
        self.start = self.last_line = self.last_status = time.monotonic()
        self.has_status = False
        self.outer: Progress | None = None
        if not silent and sys.stderr.isatty():
            import tqdm as bars

            self.bar = bars.tqdm(desc=stage, total=total, unit=f" {unit}s", initial=done, leave=None)

    def __enter__(self) -> "Progress":
        self.outer = Progress.outermost
        if not self.silent and (self.outer is None or self.outer.waits_for(self)):
            Progress.outermost, self.has_status = self, True
            self.write_status(0.0)
        return self

    def __exit__(self, *_: object) -> None:
        if Progress.outermost is self:
            Progress.outermost = self.outer
        if self.bar is not None:
            self.bar.close()

    def waits_for(self, inner: "Progress") -> bool:
        """Whether an inner loop processes all units of this loop, so that only the inner loop can show progress."""
        return self.total is not None and self.total == inner.total and self.done == self.done_before

    def restart(self) -> None:
        """Count from the start again, for a loop that is repeated."""
        self.done, self.tokens, self.start = self.done_before, 0, time.monotonic()
        if self.bar is not None:
            self.bar.reset()

    def update(self, count: int = 1, tokens: int = 0) -> None:
        """Count finished units, and their tokens if the speed is given in tokens."""
        self.done += count
        self.tokens += tokens
        if self.silent:
            return
        now = time.monotonic()
        if self.has_status and now - self.last_status >= STATUS_INTERVAL:
            self.last_status = now
            self.write_status(now - self.start)
        if self.bar is not None:
            if tokens:
                self.bar.set_postfix_str(self.speed(now - self.start), refresh=False)
            self.bar.update(count)
        elif now - self.last_line >= LOG_INTERVAL and self.done != self.total:
            self.last_line = now
            print(self.line(now - self.start), flush=True)

    def speed(self, seconds: float) -> str:
        """Return the tokens per second if tokens are counted, else the units per second."""
        return rate(self.tokens or self.done - self.done_before, seconds, "token" if self.tokens else self.unit)

    def line(self, seconds: float) -> str:
        """Return `generate: 128/512 responses, 41 s, 380 tokens/s, about 2 min left`, `seconds` after the start."""
        total = "" if self.total is None else f"/{self.total:,}"
        text = f"{self.stage}: {self.done:,}{total} {self.unit}s, {duration(seconds)}, {self.speed(seconds)}"
        left = self.seconds_left(seconds)
        return text if left is None else f"{text}, about {roughly(left)} left"

    def seconds_left(self, seconds: float) -> float | None:
        """Expected seconds until the end, `seconds` after the start; None if unknown."""
        if self.total is None or self.done == self.done_before:
            return None
        return seconds * (self.total - self.done) / (self.done - self.done_before)

    def write_status(self, seconds: float) -> None:
        """Write the status file of the stage, `seconds` after the start of the loop."""
        amounts = {"done": self.done, "total": self.total, "unit": self.unit, "tokens": self.tokens}
        write_status(self.stage, "running", **amounts, seconds=seconds, seconds_left=self.seconds_left(seconds))


class WatchedList(list):
    """A list for user code that may take seconds per item: loops over the list are shown as progress.

    An item counts as done when the next one is requested. The count restarts at the end of a loop. Code that reads all
    items before it processes them, for example to call a model, therefore shows no progress.
    """

    progress: Progress

    def __iter__(self) -> Iterator:
        self.progress.restart()
        for item in super().__iter__():
            yield item
            self.progress.update()
        self.progress.restart()

    def __reduce__(self) -> tuple:  # copies, including those for other processes, are plain lists
        return list, (self[:],)


def bar_in_log(stage: str, unit: str) -> type:
    """Return a tqdm class that prints the lines of `Progress`, for libraries that create their own bar (vLLM)."""
    from tqdm import tqdm

    class LogBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"file": io.StringIO(), "mininterval": 1e9})
            self.lines = Progress(stage, self.total, unit)
            self.lines.has_status = True  # the outer loop does not advance before the bar ends

        def update(self, n: int = 1) -> bool | None:
            self.lines.update(n)
            return super().update(n)

    return LogBar


def rate(count: float, seconds: float, unit: str) -> str:
    """`379 tokens/s`, `3.3 pairs/s`, `0.027 requests/s`."""
    per_second = count / max(seconds, 1e-3)
    return f"{per_second:,.0f} {unit}s/s" if per_second >= 9.95 else f"{per_second:.2g} {unit}s/s"


def duration(seconds: float) -> str:
    """`6.1 s`, `41 s`, `4 min 12 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 100:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """`41 s`, `2 min`, `3.5 h`: a duration with the precision of an estimate."""
    unit = next((unit for unit, size in UNIT_SECONDS.items() if seconds < 99.5 * size), "h")
    amount = seconds / UNIT_SECONDS[unit]
    return f"{amount:.1f} {unit}" if unit == "h" and amount < 9.95 else f"{amount:,.0f} {unit}"
