"""Every experiment that comes with the project is accepted and has a plan, at a laptop's scale and at the papers'."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from prefloop.config.resolve import merged, of_method
from prefloop.config.validation import checked

EXPERIMENTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("experiments/*/*.yaml"))
START = "experiments/start.yaml"
PUBLISHED = ["ablation_clusters", "dota", "dynamic_beta", "online_dpo", "replication", "samplers", "tabular"]


@pytest.mark.parametrize("path", [START, *EXPERIMENTS], ids=str)
def test_an_experiment_has_a_plan(path):
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "--cores", "1", "--configfile", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_methods_that_are_kept_but_not_compared_are_right_too(path):
    """A file may define a method that a reader turns on later."""
    config = {}
    for file in ("experiments/methods.yaml", path):
        config = merged(config, yaml.safe_load((ROOT / file).read_text()))
    own = yaml.safe_load((ROOT / path).read_text()).get("methods", {})
    if own:
        checked(config | {"compare": list(dict.fromkeys([*config["compare"], *own]))})


def test_every_published_comparison_is_there_at_both_scales():
    for scale in ("laptop", "paper"):
        assert set(PUBLISHED) <= {path.stem for path in EXPERIMENTS if path.parent.name == scale}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_a_header_gives_the_command(path):
    assert f"--configfile {path}\n" in (ROOT / path).read_text()


def test_on_a_cluster_every_figure_and_table_shares_one_job():
    """The three loops, and the three rules next to them."""
    rules = (ROOT / "rules/figures.smk").read_text()
    bodies = re.split(r"^ *rule\b.*:$", rules, flags=re.MULTILINE)[1:]
    assert len(bodies) == 6
    assert all(re.search(r"group:\s+figure_group\n", body) for body in bodies)


@pytest.mark.parametrize("path", [Path(START), *EXPERIMENTS], ids=str)
def test_a_comparison_has_a_baseline_without_any_selection(path):
    """Prompts at random (or all), pairs at random, and no filter by reward gap, which would be a selector itself."""
    config = {}
    for file in ("experiments/methods.yaml", path):
        config = merged(config, yaml.safe_load((ROOT / file).read_text()))
    config = checked(config)
    settings = [of_method(config, method) for method in config["compare"]]
    unfiltered = [s for s in settings if s["pairs"]["min_gap"] is None and s["pairs"]["min_gap_quantile"] is None]
    plain = [
        s for s in unfiltered if s["pairs"]["metric"] == "random" and s["bandit"]["allocation"] in ("uniform", "all")
    ]
    assert plain or len(settings) < 2
