"""Methods share a first step only if they draw the same prompts and sample the same responses."""

import pytest

from conftest import TINY, merge
from prefloop.config.first_steps import beginning, first_steps, sharing, with_first_steps
from prefloop.config.resolve import of_method
from prefloop.config.validation import checked
from prefloop.core.errors import InputError

VALID = merge(TINY, {"policy": {"model": "some/model"}, "share_first_step": True})
UNIFORM = {"bandit": {"allocation": "uniform"}}


def with_methods(**methods) -> dict:
    return checked(merge(VALID, {"methods": methods, "compare": list(methods)}))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({}, {"pairs": {"metric": "reward_gap"}}, True),
        ({}, {"train": {"beta": 0.2, "ld_alpha": 0.5}}, True),
        ({}, {"feedback": {"function": "prefloop.feedback.lexicons:afinn"}}, True),
        ({}, {"reference": {"kind": "previous"}}, True),
        ({}, {"bandit": {"budget": 3}}, False),
        ({}, {"generation": {"temperature": 0.5}}, False),
        ({}, {"generation": {"n": 2}}, False),
        ({}, {"generation": {"batch_size": 7}}, False),  # changes rounding
        (UNIFORM, UNIFORM | {"bandit": {"alpha": 3.0, "allocation": "uniform"}}, True),
        ({}, {"bandit": {"alpha": 3.0}}, False),
        ({}, {"bandit": {"metric": "reward_gap"}}, True),
        ({}, UNIFORM, False),
    ],
)
def test_only_methods_with_the_same_draw_and_sampling_share(first, second, same):
    shared = first_steps(with_methods(first=first, second=second))
    assert (shared["first"] == shared["second"]) == same


@pytest.mark.parametrize("own", [{"clusters": {"k": 2}}, {"acquisition": {"rule": "random_pair"}}])
def test_methods_with_their_own_clusters_or_labels_share_nothing(own):
    config = with_methods(own=own, other={})
    assert first_steps(config).keys() == {"other"} and sharing(config, "generate") == ["other"]


def test_shared_step_has_the_settings_of_its_methods():
    """Settings for drawing and sampling come from the method, all others from the experiment."""
    config = with_methods(
        first={"generation": {"sampler": "policy_reference", "n": 4}, "train": {"beta": 0.2}},
        second=UNIFORM | {"generation": {"top_p": 0.9, "stop": ["."]}},
        third={"bandit": {"allocation": "all"}},
    )
    shared = first_steps(config)
    assert len(set(shared.values())) == 3
    whole = with_first_steps(config)
    for method, name in shared.items():
        assert beginning(of_method(whole, name)) == beginning(of_method(config, method))
        assert of_method(whole, name)["train"] == config["train"]
        assert of_method(whole, name)["feedback"] == config["feedback"]
    assert whole["compare"] == config["compare"]


def test_name_of_a_shared_step_does_not_depend_on_other_methods():
    alone = first_steps(with_methods(only={}))["only"]
    assert alone == first_steps(with_methods(before={}, other=UNIFORM, only={"pairs": {"metric": "random"}}))["only"]


def test_rewards_and_logprobs_are_shared_if_they_match_the_experiment():
    config = with_methods(
        plain={},
        rewarded={"feedback": {"function": "prefloop.feedback.lexicons:afinn"}},
        discounted={"train": {"ld_alpha": 0.5}},
    )
    assert sharing(config, "generate") == ["plain", "rewarded", "discounted"]
    assert sharing(config, "reward") == ["plain", "discounted"]
    assert sharing(config, "logprobs") == ["plain", "rewarded"]


def test_nothing_is_shared_by_default():
    config = checked(merge(VALID, {"share_first_step": False}))
    assert first_steps(config) == {} and with_first_steps(config) == config


def test_joined_steps_share_nothing():
    with pytest.raises(InputError, match="share_first_step: true, but join_steps: true runs all steps"):
        checked(merge(VALID, {"join_steps": True}))
