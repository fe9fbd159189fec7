"""Fenced code blocks of the documentation: what they contain, which file they belong to, and what they print.

A line such as "In `path`, below `name`:" before a block says where the block belongs; see `PLACE`.
"""

import ast
import re
from pathlib import Path
from textwrap import dedent, indent
from typing import NamedTuple

PLACE = re.compile(
    r"^(?:New file `([^`]+)`|In `([^`]+)`, (below|above|in place of|in) `([^`]+)`|In `([^`]+)`, (at the end)):$"
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, its text, and the last line of the page before it."""

    language: str
    text: str
    before: str


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        lines = text[: match.start()].rstrip().splitlines()
        found.append(Block(match[1], match[2], lines[-1] if lines else ""))
    return found


def follow(page: Path, root: Path) -> list[str]:
    """Write every block that names a file into the folder `root`, in order; return the changed files."""
    changed = []
    for block in blocks_of(page):
        place = PLACE.match(block.before)
        if place is None:
            continue
        new, file, where, name, ended, at_end = place.groups()
        path = root / (new or file or ended)
        if new:
            assert not path.exists(), f"{new} exists already"
            path.write_text(block.text, encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
            path.write_text(placed(text, block.text, path.suffix, where or at_end, name), encoding="utf-8")
        changed.append(str(path.relative_to(root)))
    return changed


def placed(text: str, block: str, suffix: str, where: str, name: str | None) -> str:
    """Return a file's `text` with `block` inserted where the page says.

    `name` is a definition or the beginning of a line. Two blank lines separate definitions. Other blocks are indented
    like the line next to them.
    """
    lines = text.splitlines(keepends=True)
    if where == "at the end":
        return f"{text.rstrip()}\n\n\n{block}"
    definition = definition_of(text, name) if suffix == ".py" else None
    if where == "in":
        assert definition is not None, f"no {name}"
        closing = isinstance(definition, ast.Assign | ast.AnnAssign)  # before the closing brace; a class has none
        lines.insert(definition.end_lineno - closing, indent(block, "    "))
    elif definition is not None:
        assert where == "below", "a block can follow a definition but not replace it"
        lines.insert(definition.end_lineno, f"\n\n{block}")
    else:
        (number,) = [i for i, line in enumerate(lines) if line.strip().startswith(name)]
        spaces = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
        if where == "above":
            block = f"{block}\n\n"
        here = number + (where == "below")
        lines[here : here + (where == "in place of")] = [indent(block, spaces)]
    return "".join(lines)


def definition_of(text: str, name: str) -> ast.stmt | None:
    """Return the top-level function, class or assignment with this name, or None."""
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name in (getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)):
            return node
    return None


def printed_by(blocks: list[Block], number: int) -> str | None:
    """Return the documented output of block `number`: the `text` block that follows it, or None."""
    following = blocks[number + 1] if number + 1 < len(blocks) else None
    return dedent(following.text) if following is not None and following.language == "text" else None
