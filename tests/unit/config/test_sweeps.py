"""A sweep becomes methods with stable names, readable labels and one value per key."""

import re

import pytest

from conftest import TINY, merge
from prefloop.config.experiment import experiment_of
from prefloop.config.resolve import of_method
from prefloop.config.sweeps import variant_name
from prefloop.config.validation import checked
from prefloop.core.errors import InputError

VALID = merge(TINY, {"policy": {"model": "some/model"}})


def with_sweep(sweep, **differences):
    return checked(merge(VALID, {"sweep": sweep} | differences))


def test_product_of_lists_in_order():
    """Two methods, two keys with two values each: the last key varies fastest, and each variant has its values."""
    config = with_sweep({"train.beta": [0.05, 0.1], "pairs.metric": ["pfp", "reward_gap"]})
    assert config["compare"][:2] == [
        "dota_pairs_metric_pfp_train_beta_0p05",
        "dota_pairs_metric_reward_gap_train_beta_0p05",
    ]
    found = [of_method(config, name) for name in config["compare"]]
    assert [(c["train"]["beta"], c["pairs"]["metric"]) for c in found] == 2 * [
        *[(0.05, "pfp"), (0.05, "reward_gap")],
        *[(0.1, "pfp"), (0.1, "reward_gap")],
    ]
    assert {c["bandit"]["allocation"] for c in found[4:]} == {"uniform"}, "other settings of the swept method stay"
    assert experiment_of(config, "x").labels[:2] == ("dota, β 0.05, metric pfp", "dota, β 0.05, metric reward_gap")


def test_sweep_of_a_method_replaces_that_of_the_experiment():
    methods = {"dota": {"sweep": {"train.lora.r": [2, 4]}, "label": "D"}, "uniform": {"sweep": {}}}
    config = with_sweep({"train.beta": [0.1, 0.2]}, methods=methods, evaluation={"baseline": "uniform"})
    assert config["compare"] == ["dota_train_lora_r_2", "dota_train_lora_r_4", "uniform"]
    assert experiment_of(config, "x").labels == ("D, r 2", "D, r 4", "uniform")


def test_lists_of_methods_name_all_variants():
    lists = {
        "evaluation": {"by_temperature": {"methods": ["dota"]}, "by_checkpoint": {"methods": ["uniform", "dota"]}},
        "export": {"methods": ["dota"]},
    }
    config = checked(merge(VALID, {"methods": {"dota": {"sweep": {"bandit.alpha": [0.0, 1.5]}}}} | lists))
    variants = ["dota_bandit_alpha_0p0", "dota_bandit_alpha_1p5"]
    assert config["compare"] == [*variants, "uniform"]
    assert config["evaluation"]["by_temperature"]["methods"] == config["export"]["methods"] == variants
    assert config["evaluation"]["by_checkpoint"]["methods"] == ["uniform", *variants]


def test_like_does_not_inherit_a_sweep():
    methods = {"dota": {"sweep": {"train.beta": [0.2]}}, "mine": {"like": "dota"}}
    config = checked(merge(VALID, {"methods": methods, "compare": ["dota", "mine"]}))
    assert config["compare"] == ["dota_train_beta_0p2", "mine"]
    assert of_method(config, "mine")["train"]["beta"] == 0.1


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (0.05, "m_train_x_0p05"),
        (1e-5, "m_train_x_1em05"),
        (-2, "m_train_x_m2"),
        (None, "m_train_x_null"),
        (True, "m_train_x_True"),
        ("pfp", "m_train_x_pfp"),
        ("a/b.py:c", "m_train_x_a_b_py_c_[0-9a-f]{8}"),
        ({"dpo": 1.0}, "m_train_x___dpo___1_0__[0-9a-f]{8}"),
        ("y" * 300, "m_train_x_y{101}_[0-9a-f]{8}"),
    ],
)
def test_names_are_safe(value, name):
    found = variant_name("m", {"train.x": value})
    assert re.fullmatch(name.replace("True", "true"), found) and len(found) <= 120


def test_names_do_not_depend_on_the_order_of_keys():
    assert variant_name("m", {"train.x": 1, "pairs.y": 2}) == variant_name("m", {"pairs.y": 2, "train.x": 1})


def test_texts_that_differ_in_replaced_characters_have_different_names():
    names = {variant_name("m", {"train.loss": value}) for value in ("a.py:f", "a-py:f", "a_py_f")}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"train.betta": [1.0]}, "sweep: train.betta: unknown key; did you mean beta"),
        ({"treain.beta": [1.0]}, "sweep: 'treain.beta', expected a key of clusters, .*, such as train.beta"),
        ({"prompts.take": [10]}, "sweep: 'prompts.take', expected a key of clusters"),
        ({3: [1.0]}, "sweep: 3, expected a key of clusters"),
        ({"train": [{"beta": 1.0}]}, "sweep: 'train', expected a key of clusters"),
        ({"train.beta": []}, "sweep.train.beta: empty, expected 1 or more"),
        ({"train.beta": 0.1}, r"sweep.train.beta: 0.1, expected a list: write \[0.1\]"),
        ({"train.beta": ["much"]}, "sweep: train.beta: 'much', expected a number"),
        ({"train.beta": [0.1, -1.0]}, "sweep: train.beta: -1.0, expected above 0"),
        ({"train.beta": [1, 1.0]}, "sweep: train.beta has 1.0 twice"),
        ({"train.lora": [{"r": 2}], "train.lora.r": [4]}, "sweep: train.lora.r is a part of train.lora"),
        ({"clusters.seed": list(range(101))}, "sweep: 202 methods, expected 200 or fewer"),
        ({"generation.temperature": [0.0]}, "generation.temperature: 0 makes all .*methods dota_generation_temp"),
    ],
)
def test_invalid_sweeps_raise_with_one_line(sweep, message):
    with pytest.raises(InputError, match=f"^config: {message}") as error:
        with_sweep(sweep)
    assert len(str(error.value).splitlines()) == 1


def test_names_of_other_methods_are_refused():
    with pytest.raises(InputError, match="methods.dota: its sweep creates a method dota_train_beta_0p2, but another"):
        with_sweep({"train.beta": [0.2]}, methods={"dota_train_beta_0p2": {}})


def test_swept_baseline_is_refused():
    with pytest.raises(InputError, match="evaluation.baseline: dota is not one of dota_train_beta_0p2, uniform_train"):
        with_sweep({"train.beta": [0.2]}, evaluation={"baseline": "dota"})
