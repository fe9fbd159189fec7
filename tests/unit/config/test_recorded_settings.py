"""The settings recorded in an experiment's folder."""

import os

import pytest

from conftest import TINY, merge
from prefloop.config.experiment import experiment_of
from prefloop.config.recorded_settings import SETTINGS_FILE, differing_settings, read_settings, write_settings
from prefloop.config.sweeps import sweep_places
from prefloop.config.validation import checked


@pytest.mark.parametrize(("changes", "written_again"), [({}, False), ({"rounds": 5}, True)])
def test_settings_are_rewritten_only_if_they_changed(tmp_path, changes, written_again):
    path = tmp_path / SETTINGS_FILE
    for config in (TINY, merge(TINY, changes)):
        if path.exists():
            os.utime(path, (1, 1))
        config = checked(merge(config, {"policy": {"model": "some/model"}}))
        write_settings(config, experiment_of(config, str(tmp_path)))
    assert (path.stat().st_mtime > 1) == written_again


def test_recorded_sweep_has_the_label_of_the_swept_method(tmp_path):
    """Figures that are drawn from rows need it."""
    swept = {"compare": ["wide"], "methods": {"wide": {"label": "many arms"}}, "sweep": {"train.beta": [0.1, 0.2]}}
    config = checked(merge(TINY, {"policy": {"model": "some/model"}} | swept))
    write_settings(config, experiment_of(config, str(tmp_path)))
    assert sweep_places(read_settings(tmp_path).config) == sweep_places(config)
    assert {place["swept"] for place in sweep_places(config)} == {"many arms"}


def test_defaults_of_an_evaluator_that_only_one_experiment_has_are_not_listed():
    a, b = (
        checked(merge(TINY, {"policy": {"model": "some/model"}, "evaluation": {"evaluators": evaluators}}))
        for evaluators in ({}, {"judge": {"kind": "judge", "judge": {"base_url": "http://localhost/v1", "model": "m"}}})
    )
    lines = {
        f"evaluation.evaluators.judge.{key}": value
        for key, value in [
            ("kind", '"judge"'),
            ("judge.base_url", '"http://localhost/v1"'),
            ("judge.model", '"m"'),
        ]
    }
    assert differing_settings(a, b, []) == [(key, "–", value) for key, value in lines.items()]
    assert differing_settings(b, a, []) == [(key, value, "–") for key, value in lines.items()]
