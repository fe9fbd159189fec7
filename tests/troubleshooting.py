"""Writes the tables at the end of docs/troubleshooting.md from tests/catalogue: `python tests/troubleshooting.py`."""

from pathlib import Path

from catalogue import Case, read

PAGE = Path(__file__).parent.parent / "docs/troubleshooting.md"
START = "<!-- From here on tests/troubleshooting.py has written it, from tests/catalogue. -->\n"
# The trades of the catalogue in the page's order, with who speaks.
TRADES = {
    "config": "`config: …`, before any job; all mistakes of a config are told at once.",
    "prompts": "`error: …`, by the stage `prompts`.",
    "models": "`error: …`, by the stage `fetch_model` and those that load a model.",
    "feedback": "`error: …`, by the stages `reward` and `judge`.",
    "stages": "`error: …`, by the stages that read what others have written.",
    "snakemake": "By `snakemake`.",
}


def cell(text: str) -> str:
    """A text as code in a table, its lines below each other."""
    return "<br>".join(f"`` {line.replace('|', chr(92) + '|')} ``" for line in text.strip().splitlines())


def tables() -> str:
    parts = []
    for trade, speaker in TRADES.items():
        sections = read(trade)
        parts.append(f"## {trade.capitalize()}\n\n{speaker}\n")
        for title, cases in sections.items():
            what = "you wrote" if trade == "config" else "what is wrong"
            parts.append(f"### {title}\n\n| {what} | message |\n|---|---|\n" + "".join(map(row, cases)))
    return "\n".join(parts)


def row(case: Case) -> str:
    return f"| {cell(case.config) if case.config else case.mistake} | {cell(case.message)} |\n"


def page(text: str) -> str:
    """The page with its tables made anew."""
    return text.partition(START)[0] + START + "\n" + tables()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
