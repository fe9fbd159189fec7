"""Declarations of settings: choices, conditions, defaults and docstrings."""

import dataclasses
from typing import Annotated, Any, Literal

import pytest

from conftest import TINY, merge
from prefloop.config.declarations import bare, conditions, defaults, docstrings, hints, inner, relevant, retyped
from prefloop.config.generation_settings import GenerationConfig
from prefloop.config.messages import choices
from prefloop.config.outputs import FIGURES, TABLES
from prefloop.config.schema import declared
from prefloop.config.settings import ExperimentConfig, MethodConfig, MethodEntry
from prefloop.config.training_settings import TrainSection
from prefloop.config.validation import checked
from prefloop.core.metadata import OnlyIf
from prefloop.core.registry import registry_words
from prefloop.data.formats import FORMATS
from prefloop.feedback.annotate import FEEDBACK
from prefloop.feedback.label_noise import NOISE
from prefloop.methods.acquisition import ACQUISITION_RULES
from prefloop.methods.bandit import ALLOCATIONS
from prefloop.methods.beta_rules import BETAS
from prefloop.methods.losses import LOSSES
from prefloop.methods.pair_metrics import METRICS, NEEDS_BETA, NEEDS_ENSEMBLE
from prefloop.methods.pairings import PAIRINGS
from prefloop.methods.samplers import SAMPLERS
from prefloop.methods.tabular import TABULAR_SAMPLERS

VALID = merge(TINY, {"policy": {"model": "some/model"}})
SECTIONS = sorted(declared(ExperimentConfig), key=lambda settings: settings.__name__)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("methods.bandit.ALLOCATIONS", ALLOCATIONS),
        ("methods.pair_metrics.METRICS", METRICS),
        ("methods.acquisition.ACQUISITION_RULES", ACQUISITION_RULES),
        ("methods.pairings.PAIRINGS", PAIRINGS),
        ("methods.losses.LOSSES", LOSSES),
        ("methods.beta_rules.BETAS", BETAS),
        ("feedback.annotate.FEEDBACK", FEEDBACK),
        ("feedback.label_noise.NOISE", NOISE),
        ("methods.samplers.SAMPLERS", SAMPLERS),
        ("data.formats.FORMATS", FORMATS),
        ("methods.pair_metrics.NEEDS_BETA", NEEDS_BETA),
        ("methods.pair_metrics.NEEDS_ENSEMBLE", NEEDS_ENSEMBLE),
        ("config.outputs.FIGURES", FIGURES),
        ("config.outputs.TABLES", TABLES),
        ("methods.tabular.TABULAR_SAMPLERS", TABULAR_SAMPLERS),
    ],
)
def test_registry_words_are_read_from_source(name, words):
    assert registry_words(name) == list(words)


def test_irrelevant_settings_are_not_passed_to_programs():
    train = checked(VALID)["train"]
    assert (
        not {"rmax", "xpo_alpha", "label_smoothing", "beta_batch", "beta_risk"} & relevant(train, TrainSection).keys()
    )
    chosen = relevant(train | {"loss": "rev_kl", "beta_rule": "risk_calibrated"}, TrainSection)
    assert {"rmax", "beta_risk", "lora"} <= chosen.keys()
    of_sum = relevant(train | {"loss": {"dpo": 1.0, "rev_kl": 0.5}}, TrainSection)
    assert {"rmax"} == {"rmax", "xpo_alpha", "label_smoothing"} & of_sum.keys()
    assert "lora" not in relevant(train | {"parameters": "full"}, TrainSection)


@pytest.mark.parametrize("settings", SECTIONS)
def test_conditions_name_keys_and_values_that_exist(settings):
    for name, condition in conditions(settings).items():
        if condition.key in hints(settings):
            known = choices(hints(settings)[condition.key])
            assert set(condition.values) | set(condition.other_than) <= set(known), name
        else:
            assert condition.key == "sampler", "only evaluation may refer to a sampler elsewhere"


def test_condition_with_exceptions_holds_for_new_entries():
    assert OnlyIf("beta_rule", other_than=("schedule",)).holds({"beta_rule": "added later"})
    assert conditions(TrainSection)["beta"].other_than == ("schedule",)
    for name in ("n", "temperature", "batch_size"):
        assert conditions(GenerationConfig)[name].other_than == ("dataset",)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_that_read_constants_get_them(name):
    """generation.mixp reaches only the samplers in its condition. Any other sampler would use the defaults."""
    try:
        SAMPLERS[name](4, [0.2, 0.6], None)
        reads = False
    except AttributeError:
        reads = True
    assert reads == (name in conditions(GenerationConfig)["mixp"].values), "see OnlyIf at GenerationConfig.mixp"


def test_defaults_of_programs_match_the_config():
    """A program started by hand without a flag uses the same value as the workflow without the key."""
    config = checked(VALID | {"train": {}, "pairs": {}})
    program = defaults(TrainSection)
    assert {name: config["train"][name] for name in program} == program


@pytest.mark.parametrize("settings", SECTIONS)
def test_every_setting_has_a_docstring_and_a_default(settings):
    required = {"ExperimentConfig": {"name"}, "RewardModelSection": {"base"}, "Message": {"role", "content"}}
    names = {item.name for item in dataclasses.fields(settings)}
    assert docstrings(settings).keys() == names
    assert names - defaults(settings).keys() == required.get(settings.__name__, set())


def test_methods_override_exactly_the_sections_of_the_experiment():
    assert set(hints(MethodConfig)) == {
        *("clusters", "bandit", "reference", "generation", "feedback", "acquisition", "logprobs", "pairs", "train"),
    }
    assert all(bare(hints(ExperimentConfig)[name]) is bare(hint) for name, hint in hints(MethodConfig).items())


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (int, "3", 3),
        (float | None, "null", None),
        (str | None, "null", None),
        (str, "3", "3"),
        (Annotated[int | Literal["elbow"], "unit"], "8", 8),
        (Annotated[int | Literal["elbow"], "unit"], "elbow", "elbow"),
        (dict[str, float] | str, "a #1.py:loss", "a #1.py:loss"),
        (bool, "true", True),
        (float, "5e-7", "5e-7"),
        (float, "[1", "[1"),
        (Any, "no", "no"),
        (Any, "true", True),
        (Any, "2025-01-31", "2025-01-31"),
    ],
)
def test_text_is_parsed_as_yaml_unless_text_is_declared(hint, text, value):
    found = retyped(text, hint)
    assert (found, type(found)) == (value, type(value))


def test_weights_given_as_text_are_numbers():
    """`--config train={loss: {dpo: 1, nll: 0.2}}` passes the weights as text."""
    given = {"train": {"loss": {"dpo": "1", "nll": "0.2"}}}
    assert retyped(given, ExperimentConfig) == {"train": {"loss": {"dpo": 1, "nll": 0.2}}}


def test_inner_follows_lists_and_mappings():
    assert bare(inner(inner(ExperimentConfig, "seeds"), 0)) is int
    assert bare(inner(inner(ExperimentConfig, "methods"), "mine")) is MethodEntry
    assert inner(ExperimentConfig, "nothing") is None
