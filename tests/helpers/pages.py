"""Pages of docs/ as tests follow them: fenced blocks, where they go, and what they print.

A line such as "In `path`, below `name`:" before a block says where it goes; the words are those of `PLACE`.
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
    """A fenced block: its language, its text, and the last line of text before it."""

    language: str
    text: str
    before: str


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        lines = text[: match.start()].rstrip().splitlines()
        found.append(Block(match[1], match[2], lines[-1] if lines else ""))
    return found


def follow(page: Path, root: Path) -> list[str]:
    """Put every block that has a place into the tree at `root`, in order; the files that changed."""
    changed = []
    for block in blocks_of(page):
        place = PLACE.match(block.before)
        if place is None:
            continue
        new, file, where, name, ended, at_end = place.groups()
        path = root / (new or file or ended)
        if new:
            assert not path.exists(), f"{new} is there already"
            path.write_text(block.text, encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
            path.write_text(placed(text, block.text, path.suffix, where or at_end, name), encoding="utf-8")
        changed.append(str(path.relative_to(root)))
    return changed


def placed(text: str, block: str, suffix: str, where: str, name: str | None) -> str:
    """`text` of a file with a block `where` the page says: by the `name` of a definition, or by how a line begins.

    Two blank lines separate definitions; lines are indented like their neighbor.
    """
    lines = text.splitlines(keepends=True)
    if where == "at the end":
        return f"{text.rstrip()}\n\n\n{block}"
    definition = definition_of(text, name) if suffix == ".py" else None
    if where == "in":
        assert definition is not None, f"no {name}"
        closing = isinstance(definition, ast.Assign | ast.AnnAssign)  # the brace; a class has none
        lines.insert(definition.end_lineno - closing, indent(block, "    "))
    elif definition is not None:
        assert where == "below", "a definition can be followed and not replaced"
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
    """The function, class or assignment of this name at the top of a module."""
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if name in (getattr(node, "name", None), *(getattr(target, "id", None) for target in targets)):
            return node
    return None


def printed_by(blocks: list[Block], number: int) -> str | None:
    """What the page says that block `number` prints: the `text` block right after it, if there is one."""
    following = blocks[number + 1] if number + 1 < len(blocks) else None
    return dedent(following.text) if following is not None and following.language == "text" else None
