"""Find archaic or misused words and unwanted patterns in pages, configs, rules and programs, and print their places.

Words are searched in all files. Patterns, such as a distributive `a` for `per`, are searched in the text of pages,
without code and, for semicolons, without tables.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = (
    ".github/**/*.md",
    ".github/**/*.yml",
    "*.md",
    "Snakefile",
    "config.yaml",
    "benchmarks/*.md",
    "docs/**/*.md",
    "experiments/**/*.yaml",
    "profiles/**/*.yaml",
    "rules/*.smk",
    "tests/catalogue/*.yaml",
    "tools/*.py",
    "workflow/**/*.py",
)
# Patterns, each with what to write instead.
WORDS = {
    "alike": "equally, the same",
    "amongst": "among",
    "anew": "again",
    "beside": "next to, compared with",
    "besides": "in addition to, other than",
    "every of": "each of",
    "foretells?": "predict",
    "(hereby|herein|heretofore|hitherto)": "here, until now",
    "hardly any": "almost no",
    "(is|was|are|were) hoped for": "the expected number",
    "is said": "name who says it",
    "lies": "is",
    "likeliest": "most probable",
    "mends?": "fix",
    "misspelt": "misspelled",
    "nothing of it": "none",
    "rightly": "correctly",
    "stands(?! for)": "is",
    "the luck of": "random variation",
    "there(by|fore was|in|of|upon)": "so, in it, of it",
    "told": "said; apart: significantly different",
    "tried out": "tested",
    "upon": "on",
    "whence": "where from",
    "where(by|in|of|upon)": "by which, in which",
    "whilst": "while",
    "wrongly": "incorrectly",
    "(?<!well )as of": "since",
    "(?<!so )that there is": "existing, unknown",
    "(by itself|by themselves)": "automatically, alone",
}
COUNTED = "bytes?|FLOPs|[GMK]i?B|labels?|nats?|pairs?|prompts?|questions?|responses?|samples?|seconds?|tokens?|updates?"
UNITS = "batch|epoch|GPU|layer|method|pair|parameter|prompt|response|round|run|second|seed|sequence|step|token"
# In pages, outside code.
PATTERNS = {
    rf"\b({COUNTED}) an? ({UNITS})\b": "per",
    r"(?<=[\s(=<>^\[])[-−]?\.\d+\b": "a leading zero",
}
SEMICOLONS = re.compile(r";[^;]*;")  # not in tables
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")


def words() -> dict[re.Pattern, str]:
    """Patterns of the words, case-insensitive, each with what to write instead."""
    return {re.compile(rf"\b{word}\b", re.IGNORECASE): instead for word, instead in WORDS.items()}


def prose_of(page: str) -> str:
    """A page without its code; line numbers do not change."""
    return CODE.sub("x", FENCE.sub(lambda block: "\n" * block[0].count("\n"), page))


def faults(text: str, patterns: dict[re.Pattern, str]) -> Iterator[tuple[int, str, str]]:
    """All matches, as line number, matched text and what to write instead."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, instead in patterns.items():
            for match in pattern.finditer(line):
                yield number, match[0], instead


def faults_of(path: Path) -> list[tuple[int, str, str]]:
    """All matches in a file."""
    text = path.read_text(encoding="utf-8")
    found = [*faults(text, words())]
    if path.suffix == ".md" and "gallery" not in path.parts:  # its captions are generated
        prose = prose_of(text)
        found += faults(prose, {re.compile(pattern, re.IGNORECASE): instead for pattern, instead in PATTERNS.items()})
        without_tables = re.sub(r"^\|.*$", "", prose, flags=re.MULTILINE)
        found += faults(without_tables, {SEMICOLONS: "several sentences or a list"})
    return sorted(found)


def main() -> None:
    """Print all places and exit with 1 if there is a match."""
    paths = sorted({path for pattern in FILES for path in ROOT.glob(pattern)} - {Path(__file__)})
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {text!r}, write: {instead}"
        for path in paths
        for number, text, instead in faults_of(path)
    ]
    if lines:
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
