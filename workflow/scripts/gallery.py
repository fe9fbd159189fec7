"""Put an experiment's figures and tables into a folder of the documentation: small pictures, captions, the command."""

import shutil
from itertools import takewhile
from pathlib import Path

import pandas as pd
from PIL import Image

from _program import run
from prefloop.progress import Summary
from prefloop.rows import whole
from prefloop.tables import in_markdown

COLOURS = 128  # of a picture's palette: a quarter of the bytes, and no difference to see


def main(*, config: Path, page: Path, figures: tuple[Path, ...] = (), tables: tuple[Path, ...] = ()) -> Summary:
    """Write a Markdown page, and beside it a folder of its name with the pictures and tables.

    Args:
        config: The experiment's file, whose opening comment says what it asks and how it is run.
        page: Where the page goes.
        figures: Pictures (.png), each with its caption (.rst) beside it.
        tables: Tables as CSV.
    """
    folder = page.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = [f"# {page.stem}", opening(config)]
    for path in figures:
        small = Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(folder / path.name, optimize=True)
        parts.append(f"![{path.stem}]({folder.name}/{path.name})\n\n{path.with_suffix('.rst').read_text().strip()}")
    for path in tables:
        shutil.copy(path, folder / path.name)
        parts.append(f"**{path.stem}** ([CSV]({folder.name}/{path.name}))\n\n{in_markdown(pd.read_csv(path))}")
    with whole(page) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return Summary(f"{len(figures)} figures and {len(tables)} tables in {page}")


def opening(config: Path) -> str:
    """A file's first comment as Markdown; its indented lines are commands."""
    lines = [line.removeprefix("#") for line in takewhile(lambda line: line.startswith("#"), config.open())]
    return "".join(
        f"\n```\n{line.strip()}\n```\n" if line.startswith("   ") else line.lstrip() for line in lines
    ).strip()


run(main)
