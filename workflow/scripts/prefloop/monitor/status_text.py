"""The state of an experiment as text for a terminal: one line, or a table of at most WIDTH columns."""

import textwrap
from collections import Counter

from prefloop.core.progress import duration, roughly
from prefloop.monitor.status import Status, time_left

WIDTH = 100  # columns
PREFIXES = ("", "K", "M", "G", "T", "P", "E", "Z", "Y")
MAX_JOBS = 8  # shown per state


def headline(status: Status, now: float) -> str:
    """`default: running, 47 of 83 jobs done, 1 running; about 2 min left`."""
    counts = status.counts
    text = f"{status.name}: {status.state}, {counts['done']} of {len(status.jobs)} jobs done"
    text += "".join(f", {counts[state]} {state}" for state in ("running", "failed", "stopped") if counts[state])
    text += f", {len(status.warnings)} with a warning" if status.warnings else ""
    if status.state == "done":
        return text
    left, unknown = time_left(status, now)
    if left is None or (unknown and left < 1):
        return f"{text}; time left: unknown"
    return f"{text}; {'at least' if unknown else 'about'} {roughly(left)} left"


def status_table(status: Status, now: float) -> str:
    """The full state as text, in lines of at most WIDTH columns."""
    lines = [headline(status, now)]
    left, unknown = time_left(status, now)
    if left is not None and unknown:
        lines.append(cut(f"stages without an estimate, because none of them has finished: {', '.join(unknown)}"))
    rows = run_rows(status)
    if len(rows) > 1:
        lines += ["", *aligned(rows)]
    for state in ("running", "failed", "stopped"):
        jobs = [job for job in status.jobs if job.state == state]
        lines += ["", f"{state}:"] if jobs else []
        for job in sorted(jobs, key=lambda job: -job.changed)[:MAX_JOBS]:
            lines.append(cut(f"  {job.log} ({roughly(max(0.0, now - job.changed))} ago)"))
            if job.last_line:
                lines.append(cut(f"    {job.last_line}"))
        lines += [f"  and {len(jobs) - MAX_JOBS} more"] if len(jobs) > MAX_JOBS else []
    lines += ["", "warnings:"] if status.warnings else []
    for log, warning in status.warnings[:MAX_JOBS]:
        lines += [cut(f"  {log}"), textwrap.indent(textwrap.fill(warning, WIDTH - 4), " " * 4)]
    lines += [f"  and {len(status.warnings) - MAX_JOBS} more"] if len(status.warnings) > MAX_JOBS else []
    return "\n".join(lines)


def run_rows(status: Status) -> list[list[str]]:
    """A heading, one row per run, one row for shared stages, and the sum."""
    rounds, steps = status.plan["rounds"], status.plan["rounds"] * status.plan["steps"]
    rows = [["method", "seed", "rounds", "steps", "evaluated", "prompts", "tokens", "FLOPs", "stage time"]]
    for (method, seed), run in status.runs.items():
        finished = [f"{run.rounds}/{rounds}", f"{run.steps}/{steps}", f"{run.evaluated}/{rounds}", f"{run.prompts:,}"]
        rows.append([method, str(seed), *finished, *amount_cells(run.amounts)])
    if status.shared.amounts["seconds"]:
        rows.append(["shared", *[""] * 5, *amount_cells(status.shared.amounts)])
    if len(rows) > 2:
        total = sum((run.amounts for run in [*status.runs.values(), status.shared]), Counter())
        prompts = sum(run.prompts for run in status.runs.values())
        rows.append(["all", *[""] * 4, f"{prompts:,}", *amount_cells(total)])
    return rows


def amount_cells(amounts: Counter) -> list[str]:
    """Tokens, FLOPs and seconds as cells."""
    return [f"{amounts['tokens']:,}", with_prefix(amounts["flops"]), duration(amounts["seconds"])]


def with_prefix(number: float) -> str:
    """`31.2 T`: a number with three digits and one of the prefixes K, M, G, …"""
    size = next((size for size in range(len(PREFIXES) - 1, 0, -1) if float(f"{number:.3g}") >= 1000**size), 0)
    return f"{number / 1000**size:.3g} {PREFIXES[size]}".rstrip()


def aligned(rows: list[list[str]]) -> list[str]:
    """Cells in aligned columns; the first column is left-aligned, and cut if lines would be too long."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:]))
    return [
        "  ".join([row[0][: widths[0]].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]


def cut(line: str) -> str:
    """Shorten a line to at most WIDTH columns."""
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
