"""The figure of a sweep shows the means for the values of each swept key."""

import json

import numpy as np
import pandas as pd
import pytest

from made_up import drawn, experiment_in
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.inference import interval_of
from prefloop.report.sweep_curves import SweptMethod, draw_sweep, lines_of, quality_by_value

POINTS = [
    SweptMethod(f"m{index}", "DOTA", {"train.beta": beta, "pairs.metric": metric})
    for index, (beta, metric) in enumerate([(0.05, "pfp"), (0.05, "reward_gap"), (0.5, "pfp"), (0.5, "reward_gap")])
]
MEANS = {"m0": 0.0, "m1": 1.0, "m2": 2.0, "m3": 3.0, "plain": 5.0}


@pytest.fixture
def experiment(tmp_path):
    """Each method's rewards are its mean plus −1, 0 and 1."""
    found = experiment_in(tmp_path, methods=(*MEANS,), seeds=(0, 1))
    write_rows(found.root / "prompts/eval.jsonl", ({"prompt_id": f"p{i}"} for i in range(3)))
    for method, folder in [("plain", found.root / "initial"), *((k["method"], f) for k, f in found.folders())]:
        rewards = MEANS[method] + np.array([-1.0, 0.0, 1.0])
        write_rows(
            folder / "evaluation/temperature-0.7/against-initial.jsonl",
            (
                {"prompt_id": f"p{i}", "outcome": "tie", "reward": r, "feedback": None, "n_tokens": 1}
                for i, r in enumerate(rewards)
            ),
        )
    return found


def test_sweep_has_the_rows_of_each_key(experiment):
    points = [vars(point) for point in [*POINTS, SweptMethod("plain", "Plain")]]
    data, text = drawn("plot_sweep", experiment, "--points", json.dumps(points))
    assert len(data) == 9
    by_beta = data[data["key"] == "train.beta"].set_index(["others", "value"])["mean"].to_dict()
    assert by_beta == {
        ("metric pfp", "0.05"): 0,
        ("metric reward_gap", "0.05"): 1,
        ("metric pfp", "0.5"): 2,
        ("metric reward_gap", "0.5"): 3,
    }
    level = data[data["key"].isna()].iloc[0]
    assert (level["swept"], level["mean"]) == ("Plain", 5.0) and level["low"] < 5 < level["high"]
    assert "horizontal lines are methods that are not swept. Bars are 95 %" in text


def test_win_rates_have_the_intervals_of_the_tables(experiment):
    """With one seed, this is Wilson's interval, which is not symmetric."""
    outcomes = np.array([[1.0] * 9 + [0.0]])
    data = quality_by_value(experiment, POINTS, dict.fromkeys(MEANS, outcomes), "win")
    row, wilson = data.iloc[0], interval_of("win", outcomes)
    assert (row["mean"], row["low"], row["high"]) == (0.9, wilson.low, wilson.high)
    assert row["high"] - 0.9 < 0.9 - row["low"]


def test_numbers_have_a_scale_and_words_are_nominal(experiment):
    values = {name: np.full((2, 3), mean) for name, mean in MEANS.items()}
    data = quality_by_value(experiment, POINTS, values, "reward")
    beta, metric = draw_sweep(experiment, data).axes
    assert beta.get_xscale() == "log" and beta.get_xlabel() == "β (train.beta)"
    assert [line.get_label() for line in beta.get_legend_handles_labels()[0]] == [
        "DOTA, metric pfp",
        "DOTA, metric reward_gap",
    ]
    assert [label.get_text() for label in metric.get_xticklabels()] == ["pfp", "reward_gap"]
    x = np.concatenate([container.lines[0].get_xdata() for container in metric.containers])
    assert sorted(np.round(x)) == [0, 0, 1, 1] and len(set(x)) == 4, "marks of the same word are next to each other"


def test_integers_have_integer_ticks(experiment):
    points = [SweptMethod("m0", "D", {"train.lora.r": 2}), SweptMethod("m1", "D", {"train.lora.r": 4})]
    data = quality_by_value(experiment, points, {name: np.zeros((1, 3)) for name in MEANS}, "reward")
    (axes,) = draw_sweep(experiment, data).axes
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_long_names_leave_room_for_panels(experiment):
    points = [SweptMethod(point.method, "a long name of a method " * 3, point.point) for point in POINTS]
    values = {name: np.full((2, 3), mean) for name, mean in MEANS.items()}
    figure = draw_sweep(experiment, quality_by_value(experiment, points, values, "reward"))
    figure.canvas.draw()
    assert all(axes.get_window_extent().width / figure.dpi > 2.5 for axes in figure.axes)


def test_numbers_with_null_are_nominal(experiment):
    points = [SweptMethod("m0", "D", {"pairs.min_gap": None}), SweptMethod("m1", "D", {"pairs.min_gap": 0.5})]
    data = quality_by_value(experiment, points, {name: np.zeros((1, 3)) for name in MEANS}, "reward")
    (axes,) = draw_sweep(experiment, data).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["null", "0.5"]


def test_lines_join_methods_that_differ_in_one_key():
    part = pd.DataFrame({"swept": ["a", "b", "a"], "others": ["", "", ""], "value": ["1", "1", "2"]})
    assert {name: len(rows) for name, rows in lines_of(part).items()} == {"a": 2, "b": 1}


def test_sweep_without_points_is_refused(experiment):
    with pytest.raises(InputError, match="no method is swept"):
        quality_by_value(experiment, [SweptMethod("m0", "m0")], {}, "reward")
    with pytest.raises(InputError, match="'other', expected methods of m0"):
        quality_by_value(experiment, [SweptMethod("other", "x", {"train.beta": 1})], {}, "reward")
