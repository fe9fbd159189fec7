"""The report of benchmarks/gpu.py: checks and measurements as lines, JSON and a table; parts with a time limit."""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path

STATES = ("PASS", "FAIL", "SKIP", "INFO")


class Report:
    """Records checks and measurements, and prints each immediately.

    Args:
        minutes (float): The time limit in minutes; a part that would exceed it is skipped.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds, self.began, self.rows = 60 * minutes, time.perf_counter(), []

    def record(self, state: str, name: str, value: float | str = "", limit: str = "") -> None:
        """Add a line: PASS or FAIL for a check, SKIP for a part that was not run, INFO for a measurement."""
        at = round(time.perf_counter() - self.began, 1)
        self.rows.append({"state": state, "name": name, "value": value, "limit": limit, "at": at})
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{state:4} {name:72} {shown} {limit}".rstrip(), flush=True)

    def at_most(self, name: str, value: float, limit: float) -> None:
        """Check that a value is not larger than a limit; NaN fails."""
        self.record("PASS" if value <= limit else "FAIL", name, float(value), f"<= {limit:g}")

    def at_least(self, name: str, value: float, limit: float) -> None:
        """Check that a value is not smaller than a limit; NaN fails."""
        self.record("PASS" if value >= limit else "FAIL", name, float(value), f">= {limit:g}")

    def part(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        """Run a part if there is time for it. If it fails with an error, the next part still runs."""
        left = self.seconds - (time.perf_counter() - self.began)
        if left < seconds:
            self.record("SKIP", name, f"needs {seconds:.0f} s, {left:.0f} s are left")
            return
        print(f"-- {name}", flush=True)
        try:
            work()
        except Exception as error:  # noqa: BLE001 - other parts still run; the exit code reports it
            traceback.print_exc()
            self.record("FAIL", name, f"{type(error).__name__}: {str(error)[:200]}")

    def count(self, state: str) -> int:
        """The number of lines with a state."""
        return sum(row["state"] == state for row in self.rows)

    def write(self, folder: Path) -> None:
        """Write gpu.json, and gpu.md with the same rows as a table."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.json").write_text(json.dumps(self.rows, indent=1) + "\n")
        lines = ["| | measured | value | limit |", "|---|---|---:|---:|"]
        for row in self.rows:
            value = f"{row['value']:.4g}" if isinstance(row["value"], float) else row["value"]
            lines.append(f"| {row['state']} | {row['name']} | {value} | {row['limit']} |")
        (folder / "gpu.md").write_text("\n".join(lines) + "\n")

    def summary(self) -> str:
        """The last line of the report."""
        counts = ", ".join(f"{self.count(state)} {state}" for state in STATES)
        return f"{counts}; {time.perf_counter() - self.began:.0f} s"
