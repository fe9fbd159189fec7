"""Every experiment of the project is valid and can be planned, at laptop scale and paper scale."""

import re
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from prefloop.config.resolve import merged, of_method
from prefloop.config.validation import checked
from snakemake_runs import run_snakemake

EXPERIMENTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("experiments/*/*.yaml"))
START = "experiments/start.yaml"
PUBLISHED = ["ablation_clusters", "dota", "dynamic_beta", "online_dpo", "replication", "samplers", "tabular"]


@pytest.mark.parametrize("path", [START, *EXPERIMENTS], ids=str)
def test_experiments_can_be_planned(path):
    done = run_snakemake(["--dry-run", "--quiet", "--cores", "1", "--configfile", str(path)], ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_methods_that_are_not_compared_are_valid(path):
    """A file may define methods that users enable later."""
    config = {}
    for file in ("experiments/methods.yaml", path):
        config = merged(config, yaml.safe_load((ROOT / file).read_text()))
    own = yaml.safe_load((ROOT / path).read_text()).get("methods", {})
    if own:
        checked(config | {"compare": list(dict.fromkeys([*config["compare"], *own]))})


def test_published_comparisons_exist_at_both_scales():
    for scale in ("laptop", "paper"):
        assert set(PUBLISHED) <= {path.stem for path in EXPERIMENTS if path.parent.name == scale}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_header_has_the_command(path):
    assert f"--configfile {path}\n" in (ROOT / path).read_text()


def test_figures_and_tables_share_one_cluster_job():
    """figures.smk has three rules in loops and three others."""
    rules = (ROOT / "rules/figures.smk").read_text()
    bodies = re.split(r"^ *rule\b.*:$", rules, flags=re.MULTILINE)[1:]
    assert len(bodies) == 6
    assert all(re.search(r"group:\s+figure_group\n", body) for body in bodies)


@pytest.mark.parametrize("path", [Path(START), *EXPERIMENTS], ids=str)
def test_comparisons_have_a_baseline_without_selection(path):
    """The baseline takes random or all prompts and random pairs, without a filter by reward gap."""
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
