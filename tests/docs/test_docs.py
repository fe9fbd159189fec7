"""Links, file names, function names, commands and registry words in the documentation are correct.

tests/docs/test_documented_commands.py dry-runs the Snakemake commands.
"""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from documented import ROOT, anchors, pages, without_code, written
from prefloop.config.outputs import FIGURES, OF_ACQUISITION, OF_JUDGES, OF_VALIDATION, TABLES
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
}  # example files of a reader or a model


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


@cache
def defined_in(module: Path) -> set[str]:
    """Return the names of a module's top-level functions, classes and variables."""
    found = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        found.add(getattr(node, "name", ""))
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", names(pages()))
def test_links_have_targets(page):
    """Linked files and headings exist. A link whose text is a function name leads to a module that defines it."""
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
def test_named_files_exist(page):
    """Checks paths in backticks, and bare file names, which may be in any folder.

    A file that the page asks the reader to create ("New file") need not exist.
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


def test_files_in_commands_exist():
    """Checks words that begin with a folder of the project, except those with a placeholder such as `<name>`."""
    for command, page in written().items():
        for word in command.split():
            path = word.strip("\"',}]").partition("::")[0]
            if path.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and "<" not in path:
                assert any(ROOT.glob(path.rstrip("/"))), f"{page}: {command}"


def test_snakemake_commands_set_the_number_of_cores():
    """Snakemake plans without `--cores` but does not run. Two words, as in `snakemake export`, only name a target."""
    enough = {"--cores", "--dry-run", "-n", "--report", "--touch", "--lint", "--unlock", "--version"}  # one is enough
    commands = [words for command in written() if (words := command.split())[0] == "snakemake" and len(words) > 2]
    for words in commands:
        assert enough.intersection(words) or "profiles/slurm" in words, " ".join(words)


def test_make_targets_on_pages_exist():
    """The arguments of `-C` and `-f`, and variables, are not targets."""
    commands = [re.sub(r" -[Cf] \S+", "", command) for command in written() if command.startswith("make ")]
    targets = {word for command in commands for word in command.split()[1:] if "=" not in word}
    makefile = (ROOT / "Makefile").read_text()
    assert not [target for target in targets if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize(
    ("page", "registries"),
    [
        ("methods", [ALLOCATIONS, METRICS, PAIRINGS, SAMPLERS, ACQUISITION_RULES, LOSSES, BETAS]),
        ("evaluation", [FIGURES, TABLES, OF_JUDGES, OF_ACQUISITION, OF_VALIDATION]),
    ],
)
def test_registry_words_have_a_table_row(page, registries):
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
