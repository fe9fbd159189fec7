"""Captions: what is plotted, what the bands or bars are, and what can be concluded."""

import re
from pathlib import Path

from prefloop.config.experiment import Experiment
from prefloop.core.files import atomic_write

SPECIAL_CHARACTERS = re.compile(r"[\\*_|`<$]|(?<=])[(\[]")  # in a link, only the bracket that makes it a link


def caption(plotted: str, intervals: str = "", conclusion: str = "", *facts: str) -> str:
    """A caption of up to three sentences, followed by further facts and warnings; empty parts are left out."""
    return " ".join(filter(None, (plotted, intervals, conclusion, *facts)))


def interval_sentence(experiment: Experiment, marks: str, exception: str = "", differences: bool = False) -> str:
    """Explain the `marks` (bands, bars, brackets).

    Args:
        experiment: The runs.
        marks: The name of the marks.
        exception: A quantity with bootstrap intervals.
        differences: Whether all intervals are of differences, which have no Wilson intervals.
    """
    seeds = len(experiment.seeds)
    more = f"; bootstrap for {exception}" if exception else ""
    if seeds == 1:
        wilson = "" if differences else "; Wilson for win rates"
        kind = f"over prompts (t{wilson}{more}); 1 seed cannot show how runs vary"
    else:
        kind = f"over prompts and seeds (crossed random effects{more})"
    return f"{marks.capitalize()} are 95 % CIs {kind}{'; with 2 seeds they may be too narrow' * (seeds == 2)}."


def bootstrap_sentence(experiment: Experiment, marks: str) -> str:
    """Explain `marks` that are bootstrap intervals, and say whether they cover the variation between runs."""
    seeds = len(experiment.seeds)
    sentence = f"{marks.capitalize()} are 95 % bootstrap CIs over prompts{' and seeds' * (seeds > 1)}"
    if seeds >= 5:
        return f"{sentence}."
    return f"{sentence}; {count_of(seeds, 'seed')} cannot cover the variation between runs{' well' * (seeds > 2)}."


def count_of(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def write_caption(path: Path, text: str) -> None:
    """Write text as reStructuredText that is also Markdown."""
    with atomic_write(path) as partial:
        partial.write_text(escaped(text) + "\n", encoding="utf-8")


def read_caption(path: Path) -> str:
    """Read a caption or list of facts as Markdown; any markup in the file is escaped."""
    lines = [line.rstrip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return "\n".join(bullet + escaped(text) for bullet, text in map(split_line, lines)).strip()


def split_line(line: str) -> tuple[str, str]:
    """Split a line of a caption file into its bullet, which may be empty, and its text."""
    bullet = "* " if line.startswith("* ") else ""
    return bullet, re.sub(r"\\(.)", r"\1", line.removeprefix(bullet))


def escaped(text: str) -> str:
    """Escape text so that it has no markup in reStructuredText and Markdown."""
    return SPECIAL_CHARACTERS.sub(r"\\\g<0>", text)
