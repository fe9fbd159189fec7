"""The catalogue: what people get wrong, how it is made, and what they are told.

Each YAML file here is a trade, with sections of cases; tests/workflow/test_catalogue.py runs them, and the tables at
the end of docs/troubleshooting.md are made from them.
"""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

HERE = Path(__file__).parent


class Case(NamedTuple):
    """One mistake; `config` is laid over the default and checked, `run` is a program or `snakemake` with its flags."""

    mistake: str
    """In words, as docs have it."""
    message: str
    """All that is said, after `error: ` or `config: `; … is anything. Of snakemake, lines that it prints."""
    config: str = ""
    """What a person has written into a config file."""
    run: str = ""
    """Program and flags, after those of files.FLAGS."""
    files: dict[str, str | dict | None] = {}
    """What lies there besides files.FILES or in their place: text, {made: a word of files.MADE}, null for a folder."""


def read(trade: str) -> dict[str, list[Case]]:
    """The cases of a trade by section."""
    sections = yaml.safe_load((HERE / f"{trade}.yaml").read_text(encoding="utf-8"))
    return {title: [Case(**case) for case in cases] for title, cases in sections.items()}


def cases(trade: str) -> list[Case]:
    return [case for section in read(trade).values() for case in section]


def matches(pattern: str, text: str) -> bool:
    """Whether a text is the pattern, in which … stands for anything."""
    return re.fullmatch(".*?".join(map(re.escape, pattern.strip().split("…"))), text.strip(), re.DOTALL) is not None
