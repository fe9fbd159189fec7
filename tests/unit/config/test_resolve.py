"""Resolved configs: exports, models, flags and permissions."""

import pytest

from conftest import TINY, merge
from prefloop.config.resolve import (
    exports_of,
    first_beta,
    flags,
    may_run_code,
    merged,
    model_sources,
    repository_of,
    trained_here,
)
from prefloop.config.validation import checked


@pytest.mark.parametrize(
    ("rule", "by", "betas"),
    [("constant", "round", [0.3, 0.3, 0.3]), ("schedule", "round", [0.5, 0.2, 0.2]), ("schedule", "epoch", [0.5] * 3)],
)
def test_first_beta_of_three_rounds(rule, by, betas):
    train = {"beta": 0.3, "beta_rule": rule, "beta_schedule": {"values": [0.5, 0.2], "by": by}}
    assert [first_beta(train, index) for index in (1, 2, 3)] == betas


def test_default_exports_are_last_rounds_of_the_first_seed():
    usual = {"methods": None, "seeds": None, "rounds": None}
    config = {"compare": ["a", "b"], "seeds": [3, 4], "rounds": 2, "export": usual}
    assert [tuple(where.values()) for where in exports_of(config)] == [("a", 3, 2), ("b", 3, 2)]
    config["export"] = {"methods": ["b"], "seeds": [4, 3], "rounds": [1]}
    assert [tuple(where.values()) for where in exports_of(config)] == [("b", 4, 1), ("b", 3, 1)]
    assert repository_of("me/x-{method}-{seed}-{round}-{other}", exports_of(config)[0]) == "me/x-b-4-1-{other}"


def test_models_of_several_sources_are_fetched_and_trained():
    """A model in a sum may run its own code only if its source allows it."""
    sources = [
        {"function": "prefloop.feedback.lexicons:vader"},
        {"kind": "reward_model", "model": "o/plain"},
        {"kind": "reward_model", "model": "o/own", "trust_remote_code": True, "name": "own"},
        {"kind": "reward_model", "model": "trained:mine", "name": "mine"},
    ]
    differences = {"policy": {"model": "o/policy"}, "feedback": {"kind": "sum", "sources": sources}}
    config = checked(merge(TINY, differences | {"reward_models": {"mine": {"base": "o/base", "source": "packaged"}}}))
    assert set(model_sources(config).values()) == {"o/policy", "o/plain", "o/own", "o/base"}
    assert [name for name in model_sources(config).values() if may_run_code(config, name)] == ["o/own"]
    assert trained_here(config) == ["mine"]


def test_weighted_losses_are_one_flag():
    assert flags({"loss": "my losses.py:hinge"}) == "--loss 'my losses.py:hinge'"
    assert flags({"loss": {"nll": 0.2, "dpo": 1.0}}) == """--loss '{"dpo": 1.0, "nll": 0.2}'"""


def test_adapter_switches_are_flags_only_if_on():
    shape = {"r": 4, "target_modules": [], "rslora": False, "dora": False}
    assert flags({"lora": shape}) == "--lora.r 4"
    on = flags({"lora": shape | {"target_modules": ["q_proj", "v_proj"], "rslora": True, "dora": True}})
    assert on == "--lora.dora True --lora.r 4 --lora.rslora True --lora.target-modules q_proj v_proj"


def test_loss_of_a_method_replaces_the_whole_sum():
    base = {"train": {"loss": {"dpo": 1.0, "nll": 0.2}, "beta": 0.1}}
    assert merged(base, {"train": {"loss": {"ipo": 1.0}}}) == {"train": {"loss": {"ipo": 1.0}, "beta": 0.1}}
    assert merged(base, {"train": {"loss": "ipo"}})["train"]["loss"] == "ipo"


NAMES = {"policy": "o/policy", "feedback": "o/reward", "evaluator": "o/judge", "base": "o/base", "encoder": "o/encoder"}


@pytest.mark.parametrize("trusted", [None, "policy", "feedback", "evaluator", "base"])
def test_only_the_trusted_model_may_run_code(trusted):
    """Only the model with trust_remote_code next to its name has permission."""
    may = {section: {"trust_remote_code": section == trusted} for section in NAMES}
    judge = {"kind": "judge", "model": NAMES["evaluator"]} | may["evaluator"]
    differences = {
        "policy": {"model": NAMES["policy"]} | may["policy"],
        "feedback": {"kind": "function"},
        "methods": {"dota": {"feedback": {"kind": "reward_model", "model": NAMES["feedback"]} | may["feedback"]}},
        "evaluation": {"evaluator": judge},
        "reward_models": {"mine": {"base": NAMES["base"], "source": "packaged"} | may["base"]},
        "clusters": {"embedding": NAMES["encoder"]},
    }
    methods = {"uniform": {"feedback": {"kind": "reward_model", "model": "trained:mine"}}}
    config = checked(merge(merge(TINY, differences), {"methods": methods}))
    sources = model_sources(config).values()
    assert set(sources) == set(NAMES.values())
    assert [source for source in sources if may_run_code(config, source)] == [
        NAMES[name] for name in NAMES if name == trusted
    ]
