"""Curves of two experiments in one figure, with distinct names."""

import runpy
import sys

import pandas as pd
import pytest

from conftest import ROOT
from prefloop.config.recorded_settings import read_settings
from prefloop.evaluation.paired_experiments import experiment_differences
from prefloop.evaluation.results import judgments, spent_by_seed
from prefloop.report.experiment_curves import curves_caption, experiment_curves, experiment_names
from result_folders import finished_experiment, stored


def test_curves_match_each_experiment(tmp_path):
    """Means are over common seeds, and each experiment has its own numbers of labels."""
    a = finished_experiment(tmp_path / "one", gain=2.0, seeds=[0, 1, 4], methods={"dota": {"label": "DOTA"}})
    b = finished_experiment(tmp_path / "two", seeds=[1, 0, 2], rounds=1)
    both, means, points = experiment_curves(a, read_settings(stored(b)), [("dota", "dota"), ("dota", "uniform")])
    assert both.methods == ("one: DOTA", "two: dota", "two: uniform") and both.seeds == (0, 1)
    assert set(points["method"]) == set(means["method"]) == set(both.methods)
    for name, recorded, method, last in (("one: DOTA", a, "dota", 2), ("two: uniform", b, "uniform", 1)):
        curve = means[(means["method"] == name) & (means["measure"] == "reward")].set_index("round")
        assert curve.index.tolist() == list(range(last + 1))
        rows = judgments(recorded.experiment).query(f"method == '{method}' and seed in (0, 1)")
        assert curve["mean"].tolist() == pytest.approx(rows.groupby("round")["reward"].mean().tolist())
        labels = spent_by_seed(recorded.experiment).query(f"method == '{method}' and seed == 1")
        dots = points.query(f"method == '{name}' and measure == 'win' and seed == 1")
        assert dots["labels"].tolist() == labels["labels"].tolist()[1:]


def test_equal_names_become_folders(tmp_path):
    a, b = (finished_experiment(tmp_path / folder, name="same") for folder in ("one", "two"))
    assert experiment_names(a, b) == (str(tmp_path / "one"), str(tmp_path / "two"))


def test_program_draws_the_figure(tmp_path, monkeypatch):
    a = finished_experiment(tmp_path / "one", seeds=[0, 1], gain=3.0, methods={"dota": {"label": "a $b$ c"}})
    b = finished_experiment(tmp_path / "two", seeds=[0, 1])
    scripts = ROOT / "workflow/scripts"
    monkeypatch.syspath_prepend(str(scripts))
    words = ["--a", stored(a), "--b", b.experiment.root, "--figure", tmp_path / "out/curves.pdf"]
    monkeypatch.setattr(sys, "argv", ["compare_experiments", *map(str, words)])
    runpy.run_path(str(scripts / "compare_experiments.py"), run_name="__main__")
    for suffix in ("pdf", "svg", "png"):
        assert (tmp_path / f"out/curves.{suffix}").stat().st_size > 1000
    data = pd.read_csv(tmp_path / "out/curves.csv")
    assert set(data["method"]) == {"one: a $b$ c", "one: uniform", "two: dota", "two: uniform"}
    assert data["seed"].notna().sum() == 4 * 2 * 2 * 2  # curves · rounds · seeds · measures
    text = (tmp_path / "out/curves.rst").read_text()
    assert "two experiments (mean reward (evaluator), win rate against the initial policy)" in text
    assert "all compared pairs differ significantly in final mean reward (evaluator)" in text


def test_caption_names_pairs_that_do_not_differ(tmp_path):
    a = finished_experiment(tmp_path / "one", seeds=[0, 1], methods={"dota": {"label": "DOTA"}})
    b = finished_experiment(tmp_path / "two", seeds=[0, 1])
    pairs = [("dota", "dota"), ("uniform", "uniform")]
    _, means, _ = experiment_curves(a, b, pairs)
    text = curves_caption(a, b, means, experiment_differences(a, b, pairs))
    assert text.endswith("mean reward (evaluator): one: DOTA – two: dota, one: uniform – two: uniform.")
