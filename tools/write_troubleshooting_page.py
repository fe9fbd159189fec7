"""Write the tables at the end of docs/troubleshooting.md from tests/catalogue."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from catalogue import Case, read  # noqa: E402

PAGE = ROOT / "docs/troubleshooting.md"
START = "<!-- Written by tools/write_troubleshooting_page.py from tests/catalogue. -->\n"
# The files of the catalogue in the page's order, and the program that prints their messages.
SPEAKERS = {
    "config": "`config: …`, before any job; all mistakes of a config are printed at once.",
    "prompts": "`error: …`, by the stage `prepare_prompts`.",
    "models": "`error: …`, by the stage `fetch_model` and those that load a model.",
    "feedback": "`error: …`, by the stages `reward`, `compare_samples` and `evaluate_samples`.",
    "stages": "`error: …`, by the stages that read the files of others, and by `make power`.",
    "snakemake": "By `snakemake`.",
}


def cell(text: str) -> str:
    """A text as code in a table cell, with line breaks."""
    return "<br>".join(f"`` {line.replace('|', chr(92) + '|')} ``" for line in text.strip().splitlines())


def tables() -> str:
    parts = []
    for topic, speaker in SPEAKERS.items():
        sections = read(topic)
        parts.append(f"## {topic.capitalize()}\n\n{speaker}\n")
        for title, cases in sections.items():
            what = "you wrote" if topic == "config" else "what is wrong"
            parts.append(f"### {title}\n\n| {what} | message |\n|---|---|\n" + "".join(map(row, cases)))
    return "\n".join(parts)


def row(case: Case) -> str:
    return f"| {cell(case.config) if case.config else case.mistake} | {cell(case.message)} |\n"


def page(text: str) -> str:
    """The page with new tables."""
    return text.partition(START)[0] + START + "\n" + tables()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
