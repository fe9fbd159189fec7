"""Pilots: `make power` reads what `snakemake pilot` writes, and invalid files give a one-line error."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT
from made_up import SCRIPTS, experiment_in
from prefloop.config.resolve import flags
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.pilot import PILOT_COLUMNS, paired_values, read_pilot
from prefloop.evaluation.power import Design, detectable_difference, power_of_test, seeds_needed, variance_parts
from prefloop.evaluation.power_designs import paired_sample

SEEDS, PROMPTS, SAMPLES = 3, 20, 2


def planted_pilot() -> tuple[pd.DataFrame, np.ndarray]:
    """Return a pilot with methods `new` and `uniform`, and their differences [seeds, prompts, samples]."""
    draw, shape = np.random.default_rng(7), (SEEDS, PROMPTS, SAMPLES)
    differences = 0.2 + draw.normal(0, 0.05, (SEEDS, 1, 1)) + draw.normal(0, 0.3, shape)
    of_baseline = draw.normal(0, 1, shape)
    rows = [
        (method, seed, f"p{prompt}", sample, values[seed, prompt, sample], seconds)
        for method, values, seconds in [("new", of_baseline + differences, 60.0), ("uniform", of_baseline, 40.0)]
        for seed, prompt, sample in np.ndindex(shape)
    ]
    return pd.DataFrame(rows, columns=[*PILOT_COLUMNS, "seconds"]), differences


def planned(path: Path, *words: str) -> str:
    """Return the output of `make power` for a pilot."""
    paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    command = ["make", "--silent", "--old-file=.venv/installed", "-C", ROOT, "power", f"PILOT={path}", *words]
    done = subprocess.run(command, env=own | {"PATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def row_of(printed: str, design: Design) -> list[str]:
    """Return the cells that follow the design in its row."""
    rows = [line.split() for line in printed.splitlines()]
    return next(cells[3:] for cells in rows if cells[:3] == [str(count) for count in design[:3]])


def test_families_with_one_valid_prompt_each_are_no_families():
    """The judgments of one of two siblings are all invalid, so prompts are the clusters."""
    pilot, _ = planted_pilot()
    pilot = pilot[pilot["prompt_id"].isin(["p0", "p1", "p2"])]
    pilot = pilot.assign(family=pilot["prompt_id"].map({"p0": "a", "p1": "a", "p2": "b"}))
    assert paired_sample(pilot, "new", "uniform").parts.family_interaction > 0
    pilot.loc[pilot["prompt_id"] == "p1", "value"] = np.nan
    found = paired_sample(pilot, "new", "uniform")
    assert found.parts == paired_sample(pilot.drop(columns="family"), "new", "uniform").parts


def test_make_power_prints_the_power_of_the_planned_design(tmp_path):
    pilot, differences = planted_pilot()
    pilot.sample(frac=1, random_state=0).to_csv(tmp_path / "pilot.csv", index=False)
    parts, design = variance_parts(differences), Design(8, 50, 3)
    printed = planned(tmp_path / "pilot.csv", "SEEDS=8", "PROMPTS=50", "SAMPLES=3", "DIFFERENCE=0.1")
    assert printed.startswith(f"new minus uniform: {differences.mean():+.4g}, sd over seeds ")
    assert row_of(printed, design) == [
        f"{detectable_difference(parts, design):.3g}",
        f"{power_of_test(parts, design, 0.1):.2f}",
        str(seeds_needed(parts, 0.1, design)),
        "800",
    ]


def test_example_in_the_documentation_is_correct():
    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    command, example = re.search(r"```sh\nmake power (.*?)\n```\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    path, *words = command.split()
    assert planned(Path(path.removeprefix("PILOT=")), *words).startswith(example)


def test_defaults_come_from_the_pilot(tmp_path):
    """Seeds, prompts, samples and difference are the pilot's. The baseline is uniform. Seconds are optional."""
    pilot, differences = planted_pilot()
    pilot.drop(columns="seconds").to_csv(tmp_path / "pilot.csv", index=False)
    printed = planned(tmp_path / "pilot.csv")
    parts, mean = variance_parts(differences), differences.mean()
    design = Design(SEEDS, PROMPTS, SAMPLES)
    expected = [f"{power_of_test(parts, design, mean):.2f}", str(seeds_needed(parts, mean, design))]
    assert row_of(printed, design)[1:] == expected
    assert "seconds" not in printed
    assert "\nuniform minus new: " in f"\n{planned(tmp_path / 'pilot.csv', 'BASELINE=new')}"


def test_families_are_the_clusters_of_the_plan(tmp_path):
    """The pilot has four families of five prompts, and the plan four families for 50. A single family has no effect."""
    pilot, differences = planted_pilot()
    labels = pilot["prompt_id"].str[1:].astype(int) % 4
    pilot.assign(family=labels).to_csv(tmp_path / "pilot.csv", index=False)
    printed = planned(tmp_path / "pilot.csv", "SEEDS=8", "PROMPTS=50", "DIFFERENCE=0.1")
    parts = variance_parts(differences, np.arange(PROMPTS) % 4)
    design = Design(8, 50, SAMPLES, families=4)
    expected = ["4", f"{detectable_difference(parts, design):.3g}", f"{power_of_test(parts, design, 0.1):.2f}"]
    assert row_of(printed, design)[:3] == expected
    assert "4 families" in printed and "family interaction" in printed
    pilot.assign(family="all").to_csv(tmp_path / "pilot.csv", index=False)
    assert "families" not in planned(tmp_path / "pilot.csv").replace(str(tmp_path), "")


def test_one_sample_per_prompt_is_the_best_case(tmp_path):
    pilot, _ = planted_pilot()
    pilot[pilot["sample"] == 0].to_csv(tmp_path / "pilot.csv", index=False)
    printed = planned(tmp_path / "pilot.csv")
    assert "interaction unknown" in printed and "best case" in printed


def edited(change: str) -> pd.DataFrame:
    """Return the planted pilot with one mistake."""
    pilot, _ = planted_pilot()
    text = pilot.astype(object)
    wrong = {
        "column": pilot.drop(columns=["seed", "value"]),
        "text": text.assign(value=[*text["value"][:4], "good", *text["value"][5:]]),
        "seed": pilot.assign(seed=pilot["seed"] + 0.5),
        "empty seed": text.assign(seed=[None, *text["seed"][1:]]),
        "one seed": pilot[pilot["seed"] == 0],
        "one method": pilot[pilot["method"] == "new"],
        "one prompt": pilot[pilot["prompt_id"] == "p0"],
        "seeds": pilot[(pilot["method"] == "uniform") | (pilot["seed"] < 2)],
        "prompts": pilot.drop(index=6),
        "twice": pd.concat([pilot, pilot[:1]]),
        "seconds": pilot.assign(seconds=range(len(pilot))),
        "families": pilot.assign(family=pilot["seed"]),
        "rows": pilot[:0],
    }
    return wrong[change]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("column", "missing columns seed, value; found method, prompt_id, sample, seconds; a pilot has the columns"),
        ("text", "line 6: value is 'good', expected a finite number"),
        ("seed", "line 2: seed is 0.5, expected an integer"),
        ("empty seed", "line 2: seed is empty, expected an integer"),
        ("one seed", "one seed, but power needs at least two seeds"),
        ("one method", "one method, but power needs at least two methods"),
        ("one prompt", "one prompt, but power needs at least two prompts"),
        ("seeds", "method new has no seed 2; every method needs the same seeds"),
        ("prompts", "method new, seed 0 lacks 1 of 40 samples, such as prompt p3, sample 0"),
        ("twice", "line 242: a second row with this method, seed, prompt_id and sample"),
        ("seconds", "seconds differ within a run"),
        ("families", "a prompt has no family or several"),
        ("rows", "no method, but power needs at least two methods"),
    ],
)
def test_invalid_pilots_raise_with_one_line(tmp_path, change, message):
    path = tmp_path / "pilot.csv"
    edited(change).to_csv(path, index=False)
    with pytest.raises(InputError) as error:
        read_pilot(path)
    assert str(error.value).startswith(f"{path}: {message}") and "\n" not in str(error.value)


def test_missing_pilot_names_the_command_that_writes_one(tmp_path):
    with pytest.raises(InputError, match="no such file, expected a pilot; `snakemake --cores all pilot`"):
        read_pilot(tmp_path / "pilot.csv")


def test_invalid_value_is_missing_in_its_difference(tmp_path):
    pilot, differences = planted_pilot()
    pilot.loc[1, "value"] = np.nan
    pilot.to_csv(tmp_path / "pilot.csv", index=False)
    differences[0, 0, 1] = np.nan
    found = paired_values(read_pilot(tmp_path / "pilot.csv"), "new", "uniform")
    # Prompts are sorted as texts: p0, p1, p10, …
    order = np.argsort([f"p{number}" for number in range(PROMPTS)])
    np.testing.assert_allclose(found, differences[:, order])


def computed(monkeypatch, program: str, *words: object) -> None:
    """Run a program of workflow/scripts."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
    runpy.run_path(str(SCRIPTS / f"{program}.py"), run_name="__main__")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", 1], "seeds: 1, expected 2 or more"),
        (["--samples", 0], "samples: 0, expected 1 or more"),
        (["--difference", 0], "difference: 0.0, expected a finite number other than 0"),
        (["--baseline", "old"], "baseline: 'old', expected a method of "),
    ],
)
def test_impossible_plans_raise_with_one_line(monkeypatch, tmp_path, words, message):
    path = tmp_path / "pilot.csv"
    planted_pilot()[0].to_csv(path, index=False)
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        computed(monkeypatch, "compute_power", "--pilot", path, *words)


def test_written_pilot_has_the_last_round(monkeypatch, tmp_path):
    """Two rounds, two methods and two seeds; seconds cover training and evaluation of a run."""
    experiment = experiment_in(tmp_path, methods=("new", "uniform"), seeds=(3, 5), rounds=2)
    write_rows(tmp_path / "prompts/eval.jsonl", ({"prompt_id": f"p{i}", "meta": {"family": "f"}} for i in (0, 1)))
    cost = {"device": "cpu", "seconds": 2.0, "tokens_in": 0, "tokens_out": 0}
    for comparison in experiment.by_round():
        rows = [
            {"prompt_id": f"p{i}", "outcome": "win", "reward": i + 10 * comparison.round + comparison.seed}
            for i in (1, 0)
        ]
        write_rows(tmp_path / comparison.judgments, rows)
        write_json(tmp_path / comparison.judgments.replace(".jsonl", ".cost.json"), cost)
        write_json(tmp_path / comparison.folder / "sample.cost.json", cost)
    for _, folder in experiment.folders():
        write_json(folder / "train.cost.json", cost)
    for _, folder in experiment.step_folders():
        for stage in ("generate", "reward", "logprobs"):
            write_json(folder / f"{stage}.cost.json", cost)
    output = tmp_path / "pilot.csv"
    computed(monkeypatch, "write_pilot", *shlex.split(flags(asdict(experiment))), "--output", output)
    pilot = read_pilot(output)
    assert list(pilot.columns) == [*PILOT_COLUMNS, "family", "seconds"] and len(pilot) == 8
    expected = [20 + seed + i for seed in (3, 5) for i in (0, 1)]
    assert pilot[pilot["method"] == "new"]["value"].tolist() == expected
    assert (pilot["seconds"] == 2 * 6 * 2.0).all()  # two rounds of six stages
