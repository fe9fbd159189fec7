"""What surrounds the code: the package's description, hooks before a commit, and spelling."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]


def package_names(lines: list[str]) -> set[str]:
    """The packages that lines of requirements name."""
    return {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}


def pinned_packages(name: str) -> list[str]:
    """The lines of a file of pinned packages."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name != "environment.yml":
        return text.splitlines()
    return next(part["pip"] for part in yaml.safe_load(text)["dependencies"] if isinstance(part, dict))


@pytest.mark.parametrize(("extra", "file"), [("pipeline", "environment.yml"), ("test", "tests/requirements.txt")])
def test_extra_has_the_packages_of_its_file(extra, file):
    names = PROJECT["project"]["optional-dependencies"][extra]
    assert package_names(names) == package_names(pinned_packages(file))
    assert names == sorted(names, key=str.lower)


def test_versions_of_the_site_are_pinned():
    """All packages of the site, in the versions of constraints.txt where that has them."""
    lines = pinned_packages("docs/requirements.txt")[1:]
    constraints = dict(line.split("==") for line in pinned_packages("constraints.txt")[1:])
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert package_names(PROJECT["project"]["optional-dependencies"]["docs"]) <= pinned.keys()
    shared = pinned.keys() & constraints.keys()
    assert len(shared) > 5
    assert {name: pinned[name] for name in shared} == {name: constraints[name] for name in shared}


def test_hooks_run_tools_of_the_environment():
    """A hook starts a pinned package's program or one of the project's tools, as `make check` does."""
    commands = (ROOT / "Makefile").read_text(encoding="utf-8")
    packages = package_names(pinned_packages("tests/requirements.txt"))
    for hook in HOOKS:
        program, *words = hook["entry"].split()
        assert hook["language"] == "system" and program.startswith(".venv/bin/"), hook["id"]
        if (name := program.removeprefix(".venv/bin/")) == "python":
            assert (ROOT / words[0]).is_file() and words[0] in commands, hook["id"]
        else:
            assert name in packages and f"\t{name}" in commands, hook["id"]


def test_every_target_has_a_line_of_help():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    printed = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(phony) == sorted(line.split("\t")[0] for line in printed.splitlines())


def misspelled(folder) -> list[str]:
    """What codespell finds in a folder by the project's settings, a line per word."""
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert not done.stderr and done.returncode in (0, 65), done.stderr
    assert bool(done.stdout) == bool(done.returncode)
    return done.stdout.splitlines()


def test_misspelled_word_is_found(tmp_path):
    wrong = "reci" + "eve"  # in two parts, so that this file has none
    for name in ("page.md", ".github/page.yml", "results/page.md", ".venv/page.md", "rows.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"dota can {wrong} labels\n")
    assert sorted(misspelled(tmp_path)) == [
        f"./{name}:1: {wrong} ==> receive" for name in (".github/page.yml", "page.md")
    ]


def test_repository_has_no_misspelled_word():
    assert misspelled(ROOT) == []
