"""Labels name a feedback without folders of this machine."""

from pathlib import Path

import pytest

from prefloop.config.experiment import Experiment
from prefloop.config.feedback_identity import feedback_identity
from prefloop.report.feedback_labels import feedback_label, trained_by_evaluator, training_feedback_labels

JUDGE = {"template": "~/t/strict.txt", "tie_margin": 0.0, "min_label_mass": 0.01}

SOURCES = [{"function": "/home/me/own.py:b", "weight": 0.7}, {"kind": "reward_model", "model": "/data/me/rm"}]


@pytest.mark.parametrize(
    ("feedback", "expected"),
    [
        ({"kind": "function", "function": "a:b"}, "the function a:b"),
        ({"kind": "function", "function": "/home/me/own.py:b"}, "the function own.py:b"),
        ({"kind": "program", "program": "python count.py"}, "the program python count.py"),
        ({"kind": "length"}, "the feedback length"),
        ({"kind": "dataset"}, "the data set's own preference"),
        ({"kind": "reward_model", "model": "pypi:x==1/y#sha256=abc"}, "the reward model pypi:x==1/y"),
        ({"kind": "reward_model", "model": "/data/me/rm"}, "the reward model rm"),
        ({"kind": "judge", "model": "/home/me/big", "judge": JUDGE}, "the judge big with strict.txt"),
        ({"kind": "sum", "sources": SOURCES}, "the weighted sum 0.7 · own.py:b + 1 · rm"),
        ({"kind": "ensemble", "sources": SOURCES}, "the ensemble of own.py:b, rm"),
    ],
)
def test_label(feedback, expected):
    assert feedback_label(feedback_identity(feedback)) == expected


def test_unknown_evaluator_has_a_label():
    assert feedback_label("") == "the evaluator"


def test_methods_trained_by_the_evaluator(tmp_path, monkeypatch):
    """Two spellings of a path are the same model. Another folder with the same name is another model."""
    for folder in ("a/rm", "b/rm"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    evaluator, same, other = (
        feedback_identity({"kind": "reward_model", "model": str(source)})
        for source in ("a/rm", tmp_path / "a/rm", "b/rm")
    )
    experiment = Experiment(
        Path("results/x"), ("same", "other"), (0,), 1, 1, evaluator=evaluator, trained_by=(same, other)
    )
    assert trained_by_evaluator(experiment) == ["same"]
    assert training_feedback_labels(experiment) == ["the reward model rm", "the reward model b/rm"]
