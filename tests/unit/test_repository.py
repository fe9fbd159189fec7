"""Files around the code: package metadata, pre-commit hooks, workflows and spelling."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT

STYLE = runpy.run_path(str(ROOT / "tools/check_words.py"))
SECRETS = runpy.run_path(str(ROOT / "tools/check_secrets.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]


def package_names(lines: list[str]) -> set[str]:
    """Return the packages in lines of requirements."""
    return {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}


def pinned_packages(name: str) -> list[str]:
    """Return the lines of a file with pinned packages."""
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
    """All packages of the site are pinned. Those in constraints.txt have the same version there."""
    lines = pinned_packages("docs/requirements.txt")[1:]
    constraints = dict(line.split("==") for line in pinned_packages("constraints.txt")[1:])
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert package_names(PROJECT["project"]["optional-dependencies"]["docs"]) <= pinned.keys()
    shared = pinned.keys() & constraints.keys()
    assert len(shared) > 5
    assert {name: pinned[name] for name in shared} == {name: constraints[name] for name in shared}


def test_changelog_has_one_section_per_release():
    """Releases are in descending order below "Unreleased". The version is the newest or the next release."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    releases = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d{2}-\d{2})", heading) for heading in headings]
    assert all(releases), headings
    order = [(release[4], *map(int, release.groups()[:3])) for release in releases]
    assert order == sorted(order, reverse=True) and len(set(order)) == len(order)
    coming = re.search(r"^## \[Unreleased\]\n\nThis will be (\d+\.\d+\.\d+)", text, re.MULTILINE)
    newest = ".".join(map(str, order[0][1:])) if order else None
    assert PROJECT["project"]["version"] in {newest, coming and coming[1]}


def test_hooks_run_tools_of_the_environment():
    """Each hook runs a program that `make check` also runs: that of a pinned package, or a tool of the project."""
    commands = (ROOT / "Makefile").read_text(encoding="utf-8")
    packages = package_names(pinned_packages("tests/requirements.txt"))
    for hook in HOOKS:
        program, *words = hook["entry"].split()
        assert hook["language"] == "system" and program.startswith(".venv/bin/"), hook["id"]
        if (name := program.removeprefix(".venv/bin/")) == "python":
            assert (ROOT / words[0]).is_file() and words[0] in commands, hook["id"]
        else:
            assert name in packages and f"\t{name}" in commands, hook["id"]


def test_every_target_has_a_help_text():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    printed = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(phony) == sorted(line.split("\t")[0] for line in printed.splitlines())


@pytest.fixture
def folder_with_make(tmp_path):
    """A folder with the Makefile and an environment whose snakemake prints its flags."""
    snakemake = tmp_path / ".venv/bin/snakemake"
    snakemake.parent.mkdir(parents=True)
    snakemake.write_text('#!/bin/sh\necho "snakemake $*"\n')
    snakemake.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "workflow/report").mkdir(parents=True)
    (tmp_path / "results/named/figures").mkdir(parents=True)
    for name in ("environment.yml", "constraints.txt", "config.yaml", ".venv/installed", "results/named/figures/a.png"):
        (tmp_path / name).touch()
    return tmp_path


def make(folder, target: str) -> str:
    done = subprocess.run(["make", target], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("changed", ["config.yaml", "results/named/figures/a.png", "workflow/report/new.rst"])
def test_demo_writes_the_report_again_if_its_sources_changed(folder_with_make, changed):
    """Also after a change of the experiment's name."""
    assert "--report report.html" in make(folder_with_make, "demo")
    report = folder_with_make / "report.html"
    report.touch()
    assert "--report" not in make(folder_with_make, "demo")
    (folder_with_make / changed).touch()
    after = report.stat().st_mtime + 5
    os.utime(folder_with_make / changed, (after, after))
    assert "--report report.html" in make(folder_with_make, "demo")


def test_clean_follows_a_link_to_the_results(folder_with_make, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk") / "results"
    (folder_with_make / "results").rename(elsewhere)
    (folder_with_make / "results").symlink_to(elsewhere)
    (elsewhere / "models").mkdir()
    make(folder_with_make, "clean")
    assert [path.name for path in elsewhere.iterdir()] == ["models"]


def test_all_yaml_is_valid():
    """Checks all YAML files, including hidden ones; repeated keys are errors."""
    files = [path for path in SECRETS["repository_files"]() if path.suffix in {".yaml", ".yml", ".cff"}]
    assert {"mkdocs.yml", "dependabot.yml", "lint.yml", ".pre-commit-config.yaml"} <= {path.name for path in files}
    for path in files:
        for document in yaml.compose_all(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
            assert repeated_keys(document) == [], path


def repeated_keys(node: yaml.Node) -> list[str]:
    """Return the keys that occur more than once in a mapping within a YAML node."""
    if isinstance(node, yaml.SequenceNode):
        return [key for item in node.value for key in repeated_keys(item)]
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = [key.value for key, _ in node.value if key.value != "<<"]
    below = [key for _, item in node.value for key in repeated_keys(item)]
    return [key for key in set(keys) if keys.count(key) > 1] + below


def test_repeated_key_is_found():
    assert repeated_keys(yaml.compose("a: [{b: 1, c: 2, b: 3}]\nd: {a: 1}")) == ["b"]


@pytest.mark.parametrize("name", ["docs", "lint", "tiny", "unit"])
def test_workflow_runs_a_make_target(name):
    """Workflows have read access only, a time limit, the oldest Python, and existing files as cache key."""
    workflow = yaml.load((ROOT / f".github/workflows/{name}.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    assert workflow["permissions"] == {"contents": "read"} and set(workflow["on"]) == {"push", "pull_request"}
    (job,) = workflow["jobs"].values()
    assert int(job["timeout-minutes"]) <= 90
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    (command,) = [step["run"] for step in job["steps"] if "run" in step]
    make, target = command.split()
    assert make == "make" and target in targets
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
    (python,) = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert f">={python['python-version']}" == PROJECT["project"]["requires-python"]
    assert all((ROOT / file).is_file() for file in python["cache-dependency-path"].split())


def test_every_workflow_is_tested():
    assert {path.stem for path in (ROOT / ".github/workflows").iterdir()} == {"docs", "lint", "tiny", "unit"}


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_form_has_the_fields_required_by_github(name):
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8"))
    assert form["name"] and form["description"]
    assert {part["type"] for part in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)
    assert any(part.get("validations", {}).get("required") for part in fields)


def test_dependabot_updates_existing_files():
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text(encoding="utf-8"))["updates"]
    files = {"docker": "Containerfile", "github-actions": ".github/workflows/lint.yml", "pip": "requirements.txt"}
    for update in updates:
        assert (ROOT / update["directory"].strip("/") / files[update["package-ecosystem"]]).is_file()


def test_image_has_the_files_for_make_install():
    """The image installs the pinned packages with `make install`. Its build sees only the copied files."""
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert {word for word, _ in steps} == {"FROM", "RUN", "WORKDIR", "COPY", "ENV"}
    (copied,) = [rest.split()[:-1] for word, rest in steps if word == "COPY"]
    visible = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert visible[0] == "*" and sorted(visible[1:]) == sorted(f"!{name}" for name in copied)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    needed = re.search(r"^\.venv/installed: (.*)$", makefile, re.MULTILINE)[1].split()
    assert {"Makefile", *needed} == set(copied)
    assert any(rest.endswith("make install") for word, rest in steps if word == "RUN")
    python = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert steps[0][1].startswith(f"python:{python}-")
    folder = next(rest for word, rest in steps if word == "WORKDIR")
    assert steps[-1] == ["ENV", f"PATH={folder}/.venv/bin:$PATH"]


def test_catalog_knows_how_to_run_the_workflow():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert usage["software-stack-deployment"] == {"conda": True, "apptainer": True, "apptainer+conda": False}
    assert usage["report"] is True
    readme = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme and "workflow" in readme  # the catalog finds repositories by these words


def misspelled(folder) -> list[str]:
    """Return codespell's findings in a folder with the project's settings, one line per word."""
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert not done.stderr and done.returncode in (0, 65), done.stderr
    assert bool(done.stdout) == bool(done.returncode)
    return done.stdout.splitlines()


def test_misspelled_word_is_found(tmp_path):
    wrong = "reci" + "eve"  # split, so that this file has no misspelled word
    for name in ("page.md", ".github/page.yml", "results/page.md", ".venv/page.md", "rows.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"dota can {wrong} labels\n")
    assert sorted(misspelled(tmp_path)) == [
        f"./{name}:1: {wrong} ==> receive" for name in (".github/page.yml", "page.md")
    ]


def test_repository_has_no_misspelled_word():
    assert misspelled(ROOT) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("All pairs count alike.", ["alike"]),
        ("The loss is 0.7 nats a token.", ["nats a token"]),
        ("It needs 2 GB a GPU and 3 updates a round.", ["GB a GPU", "updates a round"]),
        ("The difference is .5 or -.25.", [".5", "-.25"]),
        ("One; two; three.", ["; two;"]),
        ("| one; two; three |", []),
        ("Run `.5; alike; nats a token`.", ["alike"]),
        ("```\nx = .5; y; z\n```\nOne; two.", []),
        ("Version 0.2.5 takes 0.5 s per step.", []),
        ("One response has a token for the end, and a pair a chosen response.", []),
    ],
)
def test_archaic_words_and_patterns_are_found(tmp_path, text, found):
    """Words are searched everywhere, patterns only in the text of pages."""
    (tmp_path / "page.md").write_text(f"{text}\n", encoding="utf-8")
    assert [match for _, match, _ in STYLE["faults_of"](tmp_path / "page.md")] == sorted(found)


def test_match_has_the_correct_line_number(tmp_path):
    (tmp_path / "page.md").write_text("```\n\ncode\n```\n\n3 nats a token\n", encoding="utf-8")
    assert STYLE["faults_of"](tmp_path / "page.md") == [(6, "nats a token", "per")]


def test_programs_are_searched_only_for_words(tmp_path):
    (tmp_path / "program.py").write_text("# alike, 3 nats a token\n", encoding="utf-8")
    assert [match for _, match, _ in STYLE["faults_of"](tmp_path / "program.py")] == ["alike"]
