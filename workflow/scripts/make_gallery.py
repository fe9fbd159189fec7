"""Write a documentation page with the figures and tables of an experiment: small pictures, captions, the command."""

import shutil
from itertools import groupby, takewhile
from pathlib import Path

from PIL import Image

from _program import run
from prefloop.core.csv_files import read_frame
from prefloop.core.errors import InputError, refused
from prefloop.core.files import atomic_write
from prefloop.core.progress import Summary
from prefloop.report.captions import read_caption
from prefloop.report.tables import in_markdown

COLORS = 128  # size of a picture's palette
MAX_ROWS = 60  # of a longer table, the page has only the link


def main(
    *,
    config: Path,
    page: Path,
    facts: Path | None = None,
    figures: tuple[Path, ...] = (),
    tables: tuple[Path, ...] = (),
) -> Summary:
    """Write a Markdown page, and next to it a folder with the same name that has the pictures and tables.

    Args:
        config: The experiment's config; its first comment is the page's introduction.
        page: Output path for the page, as .md.
        facts: The facts that all figures share (run.rst).
        figures: Pictures (.png), each with its caption (.rst) next to it.
        tables: Tables as CSV.
    """
    if page.suffix != ".md" or page.is_dir():
        raise InputError(f"page: {page}, expected a file .md; pictures and tables go into a folder with its name")
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():  # old pictures and tables, but not the folder of rows, which may have more seeds
        if path.suffix in (".png", ".csv") and path.is_file():
            path.unlink()
    parts = [f"# {page.stem}", first_comment(config), *([read_caption(facts)] if facts else [])]
    for path in figures:
        with refused(f"{path}: not an image; recreate it"):
            small = Image.open(path).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
        small.save(folder / path.name, optimize=True)
        text = read_caption(path.with_suffix(".rst"))
        parts.append(f"![{path.stem}]({folder.name}/{path.name})\n\n{text}")
    for path in tables:
        shutil.copy(path, folder / path.name)
        parts.append(f"**{path.stem}** ([CSV]({folder.name}/{path.name}))")
        frame = read_frame(path)
        parts.append(in_markdown(frame) if len(frame) <= MAX_ROWS else f"{len(frame)} rows, in the file.")
    with atomic_write(page) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return Summary(f"{len(figures)} figures and {len(tables)} tables in {page}")


def first_comment(config: Path) -> str:
    """The first comment of a file as Markdown; consecutive indented lines become a block of code."""
    text = config.read_text(encoding="utf-8").splitlines()
    lines = [line.removeprefix("#").removeprefix(" ") for line in takewhile(lambda line: line.startswith("#"), text)]
    parts = []
    for is_code, group in groupby(lines, key=lambda line: line.startswith("  ")):
        part = "\n".join(line.removeprefix("  ") for line in group).strip("\n")
        parts.append(f"```\n{part}\n```" if is_code else part)
    return "\n\n".join(parts)


run(main)
