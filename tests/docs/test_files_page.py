"""docs/files.md describes every file of a run that uses all features, field by field."""

import csv
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import documented
from conftest import Workdir
from prefloop.config import outputs
from prefloop.core.csv_files import csv_rows
from prefloop.core.files import read_json, read_tensors
from prefloop.core.jsonl import read_rows
from prefloop.data.clusters import read_clusters

PAGE = documented.ROOT / "docs/files.md"
FIGURES = list(outputs.FIGURES)
EVERYTHING = {
    "name": "files",
    "rounds": 2,
    "steps": 1,
    "compare": ["dota", "judged"],
    "sft": {"enabled": True, "lora": {"r": 4}, "batch_size": 8, "micro_batch_size": 8, "dtype": "float32"},
    "reward_models": {"mine": {"source": "packaged", "take": 24, "max_tokens": 64, "epochs": 1, "dtype": "float32"}},
    "prompts": {"take": 24, "eval_fraction": 0.34},
    "clusters": {"k": "elbow", "k_max": 3},
    "bandit": {"budget": 3},
    "generation": {"n": 3},
    "evaluation": {
        "samples": 2,
        "by_checkpoint": {"steps": [1], "methods": ["dota"]},
        "by_temperature": {"temperatures": [0.5]},
        "opponents": ["initial", "chosen"],
        "perplexity": {"text": "packaged", "max_tokens": 256, "dtype": "float32"},
        "validation": {"fraction": 0.3},
        "benchmark": {
            "command": "test -f {model}/config.json && echo '{\"score\": 0.5}' > {output}/score.json",
            "value": ["score"],
        },
    },
    "figures": FIGURES,
    "tables": [
        "results",
        "differences",
        "seeds",
        "win_rates",
        "length",
        "costs",
        "cost_to_reach",
        "power",
        "judge_answers",
    ],
    "tabular": {"seeds": 1, "empirical": {"steps": 2, "every": 1}, "normalized": {"steps": 4}, "paper": {"steps": 2}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folders) -> Path:
    """A tiny experiment that writes every kind of file: two methods, one with a judge, with exports."""
    directory = Workdir(tmp_path_factory.mktemp("files"), model_folders["llama"])
    (directory.path / "judge.txt").write_text("{conversation} A: {response_a} B: {response_b} Best?")
    judge = {"template": "judge.txt", "min_label_mass": 0.0, "dtype": "float32"}
    methods = {
        "dota": {
            "generation": {"sampler": "policy_reference", "n": 4},
            "reference": {"kind": "ema"},
            "pairs": {"replay": {"share": 0.3}},
            "feedback": {"noise": {"kind": "bradley_terry"}},
            "acquisition": {"rule": "delta_ucb", "labels": 3},
            "train": {"loss": "xpo", "beta_rule": "risk", "beta_risk": {"warmup": 1}},
        },
        "judged": {
            "sweep": {"train.beta": [0.1]},
            "clusters": {"k": 2},
            "pairs": {"replay": {"share": 0.3}, "offline_share": 0.3},
            "feedback": {"kind": "judge", "model": str(model_folders["qwen"]), "judge": judge},
        },
    }
    directory.configure(**EVERYTHING, methods=methods)
    directory.configure(reward_models={"mine": {"base": str(model_folders["llama"])}})
    directory.configure(evaluation={"evaluator": {"kind": "reward_model", "model": "trained:mine"}})
    strict = {"kind": "judge", "model": str(model_folders["llama"]), "judge": judge}
    directory.configure(evaluation={"evaluators": {"letters": {"function": "rewards:vowels"}, "strict": strict}})
    targets = ["all", "export", "pilot", "rows", "alpaca_eval_outputs", "arena_hard_outputs"]
    done = directory.run(*targets, "--notemp")
    assert done.returncode == 0, done.stdout
    return directory.path / "results/files"


class Section(NamedTuple):
    """A section of the page: file patterns, fields (True if a field is optional), types and an example."""

    patterns: list[str]
    fields: dict[str, bool]
    types: dict[str, str]
    example: str | None


TYPES = {"text": str, "integer": int, "number": (int, float), "list": list, "mapping": dict, "true": bool}
TYPES |= {"false": bool}
TYPES |= {"null": type(None), "[mean,": list, "integers": object, "float32": object, "": object}  # arrays; no type


def sections() -> list[Section]:
    found = []
    for part in re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        rows = re.findall(r"^\| ((?:`[^`]+`\??(?:, )?)+) \| (.*?) ?\|", body.split("\n## ")[0], re.MULTILINE)
        fields, types = {}, {}
        for cell, kinds in rows:
            named = re.findall(r"`([^`]+)`(\??)", cell)
            kinds = re.split(r", (?![^{\[]*[}\]])", kinds)  # one type for all fields, or one per field
            fields |= {name: bool(mark) for name, mark in named}
            types |= {n: k for (n, _), k in zip(named, kinds * len(named) if len(kinds) == 1 else kinds, strict=False)}
        example = re.search(r"```json\n(.*)\n```", body)
        found.append(Section(re.findall(r"`([^`]+)`", heading), fields, types, example and example[1]))
    return found


SECTIONS = sections()


def files_of(section: Section, run: Path) -> list[Path]:
    """Return the run's files that a section describes."""
    globs = [re.sub(r"<[^>]*>", "*", pattern).rstrip("/") for pattern in section.patterns]
    below = ["**/" + glob if glob.startswith("*") else glob for glob in globs]
    return sorted({path for glob in below for path in run.glob(glob) if path.is_file()})


def rows_of(path: Path) -> list[dict]:
    """Return the content of a file as rows."""
    if path.suffix == ".jsonl":
        return read_rows(path)
    if path.suffix == ".gz":
        return list(csv_rows(path))
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    readers = {".json": read_json, ".pt": read_tensors, ".pkl": read_clusters}
    return [readers[path.suffix](path)]


def values_in(row: dict, section: Section) -> dict[str, list]:
    """Return a row's values by field name; fields of nested mappings that the page describes are `list[].key`."""
    found: dict[str, list] = {}
    for column, value in row.items():
        name = re.sub(r"^(letters|strict)_", "<evaluator>_", column)
        if any(field.startswith(f"{name}[].") for field in section.fields):
            for item in value:
                for key, inner in item.items():
                    found.setdefault(f"{name}[].{key}", []).append(inner)
        else:
            found[name] = [value]
    return found


def is_of(value, kind: str) -> bool:
    """Return whether a value has a type in the page's notation: `integer`, `number or null`, `list of text`."""
    allowed = tuple(TYPES[option.split(" ")[0]] for option in kind.replace("true or false", "true").split(" or "))
    flat = [one for types in allowed for one in (types if isinstance(types, tuple) else (types,))]
    return isinstance(value, tuple(flat)) and (bool in flat or object in flat or not isinstance(value, bool))


DESCRIBED = [section for section in SECTIONS if section.fields]
NOT_MADE_HERE = {"resumed", "preference"}  # interrupted training; judge as evaluator
NOT_MADE_HERE |= {"answers", "unfinished_thoughts"}  # judge as evaluator; reasoning model
NOT_MADE_HERE |= {"reward_<name>", "disagreement"}  # several sources of feedback
NOT_MADE_HERE |= {"responses[].reward_<name>", "responses[].disagreement"}  # the same
NOT_MADE_HERE |= {"tournament", "responses[].tournament"}  # judge with a tournament
NOT_MADE_HERE |= {"logp_ref_prefixes", "responses[].logp_ref_prefixes"}  # with train.ld_alpha
NOT_MADE_HERE |= {"logp_ref_prefix_chosen", "logp_ref_prefix_rejected"}  # the same
NOT_MADE_HERE |= {"source"}  # several sources of prompts
NOT_MADE_HERE |= {"beta/m0", "beta/sigma", "beta/kept"}  # β rule `batch`
NOT_MADE_HERE |= {"commit", "license", "license_name", "license_link"}  # model from the hub
NOT_MADE_HERE |= {"quantization"}  # base model in 4 bits
NOT_MADE_HERE |= {"active_parameters"}  # mixture of experts
NOT_MADE_HERE |= {"difference", "difference_low", "difference_high"}  # method that does not use the arms


@pytest.mark.parametrize("section", DESCRIBED, ids=lambda section: section.patterns[0])
def test_fields_match_the_page(run, section):
    """Files have no undescribed field, no required field is missing, and every described field occurs."""
    files, seen = files_of(section, run), set()
    assert files, "the tiny run has no such file"
    required = {name for name, optional in section.fields.items() if not optional}
    for path in files:
        for row in rows_of(path):
            values = values_in(row, section)
            names = values.keys()
            assert required <= names <= section.fields.keys(), (path.relative_to(run), names ^ section.fields.keys())
            seen |= names
            if path.suffix not in (".csv", ".gz"):  # in CSV files every value is text
                wrong = [n for n in names for value in values[n] if not is_of(value, section.types[n])]
                assert not wrong, (path.relative_to(run), wrong)
    assert section.fields.keys() - seen <= NOT_MADE_HERE


@pytest.mark.parametrize("section", [s for s in DESCRIBED if s.example], ids=lambda section: section.patterns[0])
def test_examples_have_the_fields_of_the_page(section):
    names = values_in(json.loads(section.example), section).keys()
    assert names <= section.fields.keys()
    assert {name for name, optional in section.fields.items() if not optional} <= names


def test_page_describes_every_file_of_a_run(run):
    described = {path for section in SECTIONS for path in files_of(section, run)}
    undescribed = {path.relative_to(run) for path in run.rglob("*") if path.is_file()} - {
        path.relative_to(run) for path in described
    }
    assert not undescribed


def test_table_rows_have_all_cells():
    """A row has a name and a meaning, or a name, a type, a unit and a meaning; cells may be empty."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            assert len(re.split(r"(?<!\\)\|", line)) in (4, 6), line
