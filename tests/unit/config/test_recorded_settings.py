"""The settings recorded in an experiment's folder."""

import os

import pytest

from conftest import TINY, merge
from prefloop.config.experiment import experiment_of
from prefloop.config.recorded_settings import SETTINGS_FILE, write_settings
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
