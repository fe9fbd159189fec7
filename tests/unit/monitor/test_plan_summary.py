"""The summary of an experiment's plan."""

from collections.abc import Callable

import pytest

from conftest import TINY
from prefloop.config.resolve import merged, of_method
from prefloop.config.validation import checked
from prefloop.monitor.plan_summary import plan_summary, planned_labels


@pytest.fixture
def config_of(model_folders) -> Callable[..., dict]:
    """Returns the tiny config with all defaults and the given differences."""
    policy = {"policy": {"model": str(model_folders["llama"])}}
    return lambda **differences: checked(merged(TINY, policy | differences))


def test_summary_of_an_experiment(config_of):
    methods = {"all": {"bandit": {"allocation": "all"}}}
    config = config_of(seeds=[0, 3], methods=methods, compare=["dota", "uniform", "all"])
    assert plan_summary(config, ["quality", "arms"], []).splitlines() == [
        "tiny: 3 methods x 2 seeds (0, 3) x 2 rounds",
        "method    steps   prompts    labels  per run",
        "dota          4        16        48",
        "uniform       4        16        48",
        "all           4       all       all",
        "figures: quality, arms",
        "outputs: results/tiny/; `snakemake -n -p` lists every job with its reason and command",
    ]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ({}, 48),  # 4 prompts x 2 steps x 2 rounds x 3 responses
        ({"acquisition": {"rule": "random_pair", "labels": 2}}, 32),
        ({"generation": {"n": 4}, "feedback": {"kind": "judge"}}, 192),  # 6 pairs, asked twice
        ({"methods": {"uniform": {"bandit": {"allocation": "all"}}}}, None),
    ],
)
def test_labels_of_a_run(config_of, model_folders, differences, expected):
    if "feedback" in differences:
        differences["feedback"] |= {"function": None, "model": str(model_folders["llama"])}
    assert planned_labels(of_method(config_of(**differences), "uniform")) == expected


def test_planned_labels_equal_the_counted_ones(finished):
    """The labels in the cost files of a finished experiment sum to the planned number."""
    from prefloop.core.files import read_json

    costs = (finished.path / "results/tiny/uniform/seed-0").rglob("reward.cost.json")
    assert sum(read_json(path)["labels"] for path in costs) == 48
