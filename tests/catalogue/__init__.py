"""The catalogue of mistakes: what people get wrong, how a test makes it, and the message.

Each YAML file has sections of cases. tests/workflow/test_catalogue.py runs them, and the tables at the end of
docs/troubleshooting.md are made from them.
"""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

HERE = Path(__file__).parent


class Case(NamedTuple):
    """One mistake: `config` is merged into the default and checked; `run` is a program or `snakemake` and its flags."""

    mistake: str
    """In words, as in the documentation."""
    message: str
    """The whole message after `error: ` or `config: `, or lines that snakemake prints; … is any text."""
    config: str = ""
    """The text of a config file."""
    run: str = ""
    """Program and flags, after those of files.FLAGS."""
    files: dict[str, str | dict | None] = {}
    """Files in addition to or instead of files.FILES: text, {made: a word of files.MADE}, null for a folder."""


def read(topic: str) -> dict[str, list[Case]]:
    """The cases of a file by section."""
    sections = yaml.safe_load((HERE / f"{topic}.yaml").read_text(encoding="utf-8"))
    return {title: [Case(**case) for case in cases] for title, cases in sections.items()}


def cases(topic: str) -> list[Case]:
    return [case for section in read(topic).values() for case in section]


def matches(pattern: str, text: str) -> bool:
    """Whether a text matches the pattern, in which … is any text."""
    return re.fullmatch(".*?".join(map(re.escape, pattern.strip().split("…"))), text.strip(), re.DOTALL) is not None
