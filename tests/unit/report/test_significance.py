"""Captions say which policies do not differ significantly."""

import numpy as np

from prefloop.config.experiment import Experiment
from prefloop.report.significance import significance_clause, significance_sentence


def test_many_methods_are_compared_with_the_baseline_only(tmp_path):
    methods = tuple(f"m{i}" for i in range(7))
    experiment = Experiment(tmp_path, methods, (0,), 1, 1, baseline="m3")
    values = {m: np.full((1, 20), float(i == 6)) for i, m in enumerate(methods)}
    clause = significance_clause(experiment, values, "reward")
    assert clause == "these do not differ significantly from m3 in reward: m0, m1, m2, m4, m5"  # m6 is better by 1
    better = {name: values[name] for name in ("m3", "m6")}
    assert significance_clause(experiment, better, "reward") == "all differences from m3 in reward are significant"
    alone = Experiment(tmp_path, ("m0",), (0,), 1, 1)
    assert significance_clause(alone, {"m0": values["m0"]}, "reward") == ""
    assert significance_sentence(["", ""], seeds=3) == ""


def test_methods_without_a_valid_value_are_not_compared(tmp_path):
    """A missing difference is not a small one."""
    experiment = Experiment(tmp_path, ("a", "b", "c"), (0, 1), 1, 1, baseline="a")
    values = {name: np.arange(8.0).reshape(2, 4) + 9 * index for index, name in enumerate("abc")}
    values["c"] = np.full((2, 4), np.nan)
    assert significance_clause(experiment, values, "reward") == "all differences in reward are significant"
    values["b"] = values["c"]
    assert significance_clause(experiment, values, "reward") == ""
