"""Links, file names, function names, commands and registry words in the documentation are right.

Commands of Snakemake are planned (`--dry-run`) by tests/docs/test_documented_commands.py.
"""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from documented import ROOT, anchors, pages, without_code, written
from prefloop.config.outputs import FIGURES, OF_ACQUISITION, OF_JUDGES, TABLES
from prefloop.methods.acquisition import ACQUISITION_RULES
from prefloop.methods.bandit import ALLOCATIONS
from prefloop.methods.beta_rules import BETAS
from prefloop.methods.losses import LOSSES
from prefloop.methods.pair_metrics import METRICS
from prefloop.methods.pairings import PAIRINGS
from prefloop.methods.samplers import SAMPLERS

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FOLDERS = ("workflow", "rules", "docs", "tests", "experiments", "profiles", "benchmarks")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[^`\s]*|[\w-]+\.(?:py|smk|yaml|yml|toml|txt|md))`")
OWN = {
    "mine.yaml",
    "my_rewards.py",
    "my_data.py",
    "count.py",
    "config.json",
}  # files that pages take as a reader's own or a model's


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


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
    """Paths in backticks below the project's folders, and file names alone, which may stand anywhere.

    A page may have its reader make a file ("New file"), which is not there.
    """
    text = without_code((ROOT / page).read_text(encoding="utf-8"))
    made = set(re.findall(r"^New file `([^`]+)`:$", text, re.MULTILINE))
    everywhere = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    basenames = {path.name for path in everywhere}
    for name in PATH.findall(text):
        pattern = re.sub(r"<[^>]*>|…|\bX\b", "*", name.split("::")[0]).rstrip("/")
        if "{" in pattern or name in OWN | made:
            continue
        if "/" in pattern:
            assert any(ROOT.glob(pattern)) or any((ROOT / "workflow/scripts").glob(pattern)), f"{page}: {name}"
        else:
            assert pattern in basenames, f"{page}: {name}"


def test_commands_name_files_that_are_there():
    """Words of a command that begin with a folder of the project; what a reader fills in (`<name>`) may be anything."""
    for command, page in written().items():
        for word in command.split():
            path = word.strip("\"',}]").partition("::")[0]
            if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and "<" not in path:
                assert any(ROOT.glob(path.rstrip("/"))), f"{page}: {command}"


def test_every_command_that_runs_something_says_on_how_many_cores():
    """Snakemake refuses to run without, but plans. `snakemake export` in a sentence only names a target."""
    enough = {"--cores", "--dry-run", "--report", "--touch", "--lint", "--unlock", "--version"}  # each by itself
    commands = [words for command in written() if (words := command.split())[0] == "snakemake" and len(words) > 2]
    for words in commands:
        assert enough.intersection(words) or "profiles/slurm" in words, " ".join(words)


def test_make_knows_every_target_that_pages_name():
    words = {word for command in written() if command.startswith("make ") for word in command.split()[1:]}
    targets = {word for word in words if "=" not in word and not word.startswith(("-", "/"))}  # -f, -C and their paths
    makefile = (ROOT / "Makefile").read_text()
    assert not [target for target in targets if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize(
    ("page", "registries"),
    [
        ("methods", [ALLOCATIONS, METRICS, PAIRINGS, SAMPLERS, ACQUISITION_RULES, LOSSES, BETAS]),
        ("evaluation", [FIGURES, TABLES, OF_JUDGES, OF_ACQUISITION]),
    ],
)
def test_every_word_of_a_registry_has_a_row(page, registries):
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE))))
    missing = [word for words in registries for word in words if word not in shown]
    assert not missing, f"docs/{page}.md: no row of a table begins with {', '.join(missing)}"


def test_version_and_license_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert (ROOT / "LICENSE").read_text().split()[:2] == ["Apache", "License"]
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
