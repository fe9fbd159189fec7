"""The documentation is true where a program can tell: links, names of files and functions, and every command.

A command of Snakemake is planned (`--dry-run`) where the page stands, in tests/workflow/test_documented_commands.py; `make` is
asked whether it knows the target; anything else has an entry in tests/documented_commands.yaml.
"""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from documented import FENCE, ROOT, commands_of, pages

TABLE = yaml.safe_load((ROOT / "tests/documented_commands.yaml").read_text(encoding="utf-8"))
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FOLDERS = ("workflow", "rules", "docs", "tests", "experiments", "profiles", "benchmarks")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[^`\s]*|[\w-]+\.(?:py|smk|yaml|yml|toml|txt|md))`")
MADE = {"environment.yml", "mine.yaml", "my_rewards.py", "config.json", "README.md"}  # not files of ours at that place


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def without_code(text: str) -> str:
    return FENCE.sub("", text)


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings as GitHub makes them; a heading that comes again gets a number."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


@cache
def defined_in(module: Path) -> set[str]:
    """Functions, classes and variables at the top of a module."""
    found = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        found.add(getattr(node, "name", ""))
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", names(pages()))
def test_links_lead_somewhere(page):
    """To files that are there and headings that they have; a function's name to a module that defines it."""
    here = ROOT / page
    for text, target, picture in LINK.findall(without_code(here.read_text(encoding="utf-8"))):
        target = target or picture
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (here.parent / path).resolve() if path else here
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page}: {target}"
        if file.suffix == ".py" and re.fullmatch(r"`\w+`", text):
            assert text.strip("`") in defined_in(file), f"{page}: {text} is not in {path}"


@pytest.mark.parametrize("page", names(pages()))
def test_named_files_are_there(page):
    """Paths in backticks below the project's folders, and file names alone, which may stand anywhere."""
    everything = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    basenames = {Path(name).name for name in everything}
    for name in PATH.findall(without_code((ROOT / page).read_text(encoding="utf-8"))):
        pattern = re.sub(r"<[^>]*>|…", "*", name.split("::")[0]).rstrip("/")
        if "{" in pattern or name in MADE:
            continue
        if "/" in pattern:
            assert any(ROOT.glob(pattern)) or any((ROOT / "workflow/scripts").glob(pattern)), f"{page}: {name}"
        else:
            assert pattern in basenames, f"{page}: {name}"


def accounted(command: str) -> bool:
    """Whether a test plans the command, or the table has it."""
    return command in TABLE or command.split()[0] in ("snakemake", "make")


def test_every_command_is_accounted_for():
    missing = {command: str(page.relative_to(ROOT)) for page in pages() for command in commands_of(page)}
    missing = {command: page for command, page in missing.items() if not accounted(command)}
    assert not missing, "run each, and enter it in tests/documented_commands.yaml"


def test_the_table_has_no_command_that_no_page_has():
    assert TABLE.keys() <= {command for page in pages() for command in commands_of(page)}


@pytest.mark.parametrize("command", TABLE)
def test_where_the_table_points_the_command_is(command):
    """`test: file::function` is a test that is there; `listed:` a heading of docs/commands.md below which it stands."""
    (kind, where), *more = TABLE[command].items()
    assert not more
    if kind == "test":
        file, function = where.split("::")
        assert function in defined_in(ROOT / file)
        return
    assert kind == "listed", kind
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    part = page.split(f"## {where}\n", 1)[1].split("\n## ")[0]
    assert command in re.sub(r"\s+", " ", part)


def test_make_knows_every_target_that_pages_name():
    targets = {word for page in pages() for c in commands_of(page) if c.startswith("make ") for word in c.split()[1:]}
    known = (ROOT / "Makefile").read_text()
    for target in targets - {"&&"}:
        assert re.search(rf"^{re.escape(target)}:", known, re.MULTILINE), target
