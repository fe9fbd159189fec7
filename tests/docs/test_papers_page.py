"""docs/papers.md agrees with the configs, results and tests of this repository."""

import csv
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from prefloop.config.resolve import merged, of_method
from prefloop.config.validation import checked

PAGE = ROOT / "docs/papers.md"
LINK = re.compile(r"\[(.*)\]\((.*)\)")
CODE = re.compile(r"`([^`]*)`")


def tables() -> list[list[list[str]]]:
    """Return the cells of every table on the page, without the line below the header."""
    found = re.findall(r"(?:^\|.*\|\n)+", PAGE.read_text(), re.MULTILINE)
    rows = [[[c.strip() for c in line.strip("|").split(" | ")] for line in table.splitlines()] for table in found]
    return [[table[0], *table[2:]] for table in rows]


def linked(cell: str) -> Path | None:
    """Return the file that a cell links to."""
    found = LINK.fullmatch(cell)
    return (PAGE.parent / found[2]).resolve() if found else None


@cache
def config_of(path: Path) -> dict:
    """Return an experiment's config with defaults and presets, as if it compared all of its methods."""
    own = yaml.safe_load(path.read_text())
    config = merged(yaml.safe_load((ROOT / "experiments/methods.yaml").read_text()), own)
    return checked(config | {"compare": list(dict.fromkeys([*config["compare"], *own.get("methods", {})]))})


SETTINGS = [
    pytest.param(row[0], row[column], path, id=f"{path.parent.name}/{path.stem}, {row[0]}".replace("`", ""))
    for table in tables()
    for column, head in enumerate(table[0])
    if (path := linked(head)) and path.suffix == ".yaml"
    for row in table[1:]
]


@pytest.mark.parametrize(("setting", "cell", "path"), SETTINGS)
def test_settings_match_the_config(setting, cell, path):
    """The first code span of a cell is the value in YAML, or a part of a model's name.

    A dash marks a method that this scale does not have.
    """
    *method, key = CODE.findall(setting)
    config = config_of(path)
    if cell == "–":
        assert method[0] not in config["methods"]
        return
    value = of_method(config, *method or [None])
    for word in key.split("."):
        value = value[word]
    said = CODE.match(cell)[1]
    assert said in value if key == "policy.model" else yaml.safe_load(said) == value


def test_page_has_the_settings_of_every_paper_experiment():
    ours = {path for scale in ("paper", "laptop") for path in ROOT.glob(f"experiments/{scale}/*.yaml")}
    left_out = {"ablation_clusters", "own_reward_model", "headline", "labels_or_steps"}  # reproduce no paper
    assert {case.values[2] for case in SETTINGS} == {path for path in ours if path.stem not in left_out}


RESULTS = [(linked(table[0][0]), table) for table in tables() if (linked(table[0][0]) or PAGE).suffix == ".csv"]


@pytest.mark.parametrize(("path", "table"), RESULTS, ids=[path.parent.name for path, _ in RESULTS])
def test_results_match_rows_of_the_file(path, table):
    """Texts are equal; numbers agree to two decimals."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [LINK.sub(r"\1", name) for name in table[0]]

    def same(found: str, said: str) -> bool:
        try:
            return round(float(found), 2) == float(said.replace("−", "-"))
        except ValueError:
            return found == said

    for said in table[1:]:
        assert any(all(same(row[n], s) for n, s in zip(names, said, strict=True)) for row in rows), said


def test_every_preset_has_a_source():
    """The source is an arXiv number or a link to a section of this page."""
    (sources,) = [table[1:] for table in tables() if table[0] == ["preset", "source"]]
    presets = yaml.safe_load((ROOT / "experiments/methods.yaml").read_text())["methods"]
    assert sorted(name for names, _ in sources for name in CODE.findall(names)) == sorted(presets)
    assert all(re.search(r"arXiv \d{4}\.\d{5}|\]\(#", source) for _, source in sources)


def test_named_tests_exist():
    defined = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    named = {word for word in CODE.findall(PAGE.read_text()) if re.fullmatch(r"test_\w+", word)}
    assert len(named) > 40
    assert named <= defined
