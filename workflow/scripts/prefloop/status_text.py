"""A status as a person reads it in a terminal: one line, or a table of at most WIDTH columns."""

from collections import Counter

from prefloop.progress import duration, roughly
from prefloop.status import Status, time_left

WIDTH = 100  # columns
PREFIXES = ("", "K", "M", "G", "T", "P", "E", "Z", "Y")
SHOWN = 8  # lines of what runs or failed


def headline(status: Status, now: float) -> str:
    """`default: running, 47 of 83 jobs done, 1 running; about 2 min left`."""
    counts, words = status.counts, f"{status.name}: {status.word}"
    words += f", {counts['done']} of {len(status.jobs)} jobs done"
    words += "".join(f", {counts[state]} {state}" for state in ("running", "failed", "stopped") if counts[state])
    if status.word == "done":
        return words
    left, unknown = time_left(status, now)
    if left is None or (unknown and left < 1):
        return f"{words}; time left: unknown"
    return f"{words}; {'at least' if unknown else 'about'} {roughly(left)} left"


def table(status: Status, now: float) -> str:
    """The whole of it as text, in lines of at most WIDTH columns."""
    plan, lines = status.plan, [headline(status, now)]
    left, unknown = time_left(status, now)
    if left is not None and unknown:
        lines.append(cut(f"not in that time, as none has ended yet: {', '.join(unknown)}"))
    rounds, steps = plan["rounds"], plan["rounds"] * plan["steps"]
    rows = [["method", "seed", "rounds", "steps", "evaluated", "prompts", "tokens", "FLOP", "stage time"]]
    for (method, seed), run in status.runs.items():
        done = [f"{run.rounds}/{rounds}", f"{run.steps}/{steps}", f"{run.evaluated}/{rounds}", f"{run.prompts:,}"]
        rows.append([method, str(seed), *done, *in_words(run.amounts)])
    if status.shared.amounts["seconds"]:
        rows.append(["shared", *[""] * 5, *in_words(status.shared.amounts)])
    if len(rows) > 2:
        total = sum((run.amounts for run in [*status.runs.values(), status.shared]), Counter())
        prompts = sum(run.prompts for run in status.runs.values())
        rows.append(["all", *[""] * 4, f"{prompts:,}", *in_words(total)])
    if len(rows) > 1:
        lines += ["", *aligned(rows)]
    for state in ("running", "failed", "stopped"):
        found = [job for job in status.jobs if job.state == state]
        lines += ["", f"{state}:"] if found else []
        for job in sorted(found, key=lambda job: -job.changed)[:SHOWN]:
            lines.append(cut(f"  {job.log} ({roughly(max(0.0, now - job.changed))} ago)"))
            if job.last:
                lines.append(cut(f"    {job.last}"))
        lines += [f"  and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n".join(lines)


def in_words(amounts: Counter) -> list[str]:
    return [f"{amounts['tokens']:,}", with_prefix(amounts["flops"]), duration(amounts["seconds"])]


def with_prefix(number: float) -> str:
    """`31.2 T`: a number in the largest of the units K, M, G, … that it reaches."""
    size = next((size for size in range(len(PREFIXES) - 1, 0, -1) if number >= 1000**size), 0)
    return f"{number / 1000**size:.3g} {PREFIXES[size]}".rstrip()


def aligned(rows: list[list[str]]) -> list[str]:
    """Cells in columns, the first to the left; a long first one is cut so that a line fits."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:]))
    return [
        "  ".join([row[0][: widths[0]].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]


def cut(line: str) -> str:
    """A line no longer than WIDTH."""
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
