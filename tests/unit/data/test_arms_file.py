"""arms.json contains the complete state of the arms."""

import numpy as np
import pytest

from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.data.arms_file import arms_before, read_arms, write_arms
from prefloop.methods.bandit import ARM_FIELDS, Arms, ucb_scores, update_arms


def test_file_restores_the_state(tmp_path):
    arms = update_arms(Arms.fresh(3), np.array([0, 2, 2]), np.array([0.1, 0.2, 0.9]), 1.0)
    arms.score = ucb_scores(arms, 1.0)
    write_arms(tmp_path / "arms.json", arms, round=1, step=2)
    again = read_arms(tmp_path / "arms.json")
    for name in ARM_FIELDS:
        assert getattr(again, name).tolist() == getattr(arms, name).tolist()


def test_first_step_has_fresh_arms(tmp_path):
    assert arms_before(None, 3, tmp_path / "clusters.pkl").pulls.tolist() == [0, 0, 0]


def test_different_number_of_clusters_raises(tmp_path):
    write_arms(tmp_path / "arms.json", Arms.fresh(5), round=1, step=1)
    with pytest.raises(InputError, match="arms.json: 5 arms, expected 2, the number of clusters in .*clusters.pkl"):
        arms_before(tmp_path / "arms.json", 2, tmp_path / "clusters.pkl")


def test_invalid_file_raises(tmp_path):
    write_json(tmp_path / "arms.json", {"arms": [{"pulls": 1}]})
    with pytest.raises(InputError, match="not an arms file: missing 'count'"):
        read_arms(tmp_path / "arms.json")
