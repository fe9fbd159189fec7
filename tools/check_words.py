"""Find archaic or misused words in pages, configs, rules and programs, and print where they are.

A distributive `a` (for `per`) and a number without a leading zero are not words, so nothing finds them here.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = (
    ".github/**/*.md",
    ".github/**/*.yml",
    "*.md",
    "Snakefile",
    "config.yaml",
    "docs/**/*.md",
    "experiments/**/*.yaml",
    "profiles/**/*.yaml",
    "rules/*.smk",
    "tests/catalogue/*.yaml",
    "tools/*.py",
    "workflow/**/*.py",
)
# From a pattern to what to write instead.
WORDS = {
    "anew": "again",
    "beside": "next to, compared with",
    "besides": "in addition to, other than",
    "mends?": "fix",
    "told": "said; apart: significantly different",
    "foretells?": "predict",
    "whence": "where from",
    "(?<!well )as of": "since",
    "(?<!so )that there is": "existing, unknown",
    "nothing of it": "none",
    "(by itself|by themselves)": "automatically, alone",
    "is said": "name who says it",
    "stands(?! for)": "is",
    "lies": "is",
    "the luck of": "random variation",
}
PATTERNS = {re.compile(rf"\b{word}\b", re.IGNORECASE): instead for word, instead in WORDS.items()}


def main() -> None:
    """Exit with 1 and the places if there is any such word."""
    paths = sorted({path for pattern in FILES for path in ROOT.glob(pattern)} - {Path(__file__)})
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r}, write: {instead}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for pattern, instead in PATTERNS.items()
        for match in pattern.finditer(line)
    ]
    if found:
        sys.exit("\n".join(found))


main()
