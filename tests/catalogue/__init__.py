"""The catalogue of user mistakes: a description, how a test reproduces it, and the expected message.

Each YAML file has sections of cases. tests/workflow/test_catalogue.py runs them.
The tables at the end of docs/troubleshooting.md are generated from them.
"""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

HERE = Path(__file__).parent


class Case(NamedTuple):
    """One mistake. `config` is merged into the default and checked; `run` is a program or `snakemake` with flags."""

    mistake: str
    """The description shown in the documentation."""
    message: str
    """The whole message after `error: ` or `config: `, or lines that snakemake prints; `…` matches any text."""
    config: str = ""
    """The text of a config file."""
    run: str = ""
    """Program and flags; the flags are appended to those of files.FLAGS."""
    files: dict[str, str | dict | None] = {}
    """Files that extend or replace files.FILES: text, {made: a key of files.MADE}, or null for a folder."""


def read(topic: str) -> dict[str, list[Case]]:
    """Return the cases of a YAML file by section."""
    sections = yaml.safe_load((HERE / f"{topic}.yaml").read_text(encoding="utf-8"))
    return {title: [Case(**case) for case in cases] for title, cases in sections.items()}


def cases(topic: str) -> list[Case]:
    return [case for section in read(topic).values() for case in section]


def matches(pattern: str, text: str) -> bool:
    """Return whether the text matches the pattern; `…` matches any text."""
    return re.fullmatch(".*?".join(map(re.escape, pattern.strip().split("…"))), text.strip(), re.DOTALL) is not None
