"""TransformersEngine loads the models of a component and samples from them."""

import pytest
import torch

from prefloop.config.generation_settings import SamplingParams
from prefloop.core.errors import InputError
from prefloop.generation.engines import TransformersEngine
from prefloop.methods.samplers import POLICY, REFERENCE, Component

PROMPTS = [[0, 5, 6], [0, 8]]


def test_power_of_one_model_is_a_temperature(manifests):
    """Sampling from π_θ^½ is sampling from the policy at twice the temperature."""
    manifest, hot = manifests["llama"], Component("hot", 0.5, 0.0)
    policies = {"policy": manifest, "reference": manifest}
    engine = TransformersEngine(manifest, policies, [1], torch.float32, "cpu")

    def answers(component: Component, temperature: float) -> list[list[int]]:
        return engine.generate(component, PROMPTS, [4, 4], range(8), SamplingParams(temperature, max_new_tokens=12))

    assert answers(hot, 0.5) == answers(POLICY, 1.0) != answers(POLICY, 0.5)
    assert answers(Component("both", 0.25, 0.25), 0.5) == answers(POLICY, 1.0), "powers of one model add up"


def test_missing_policy_raises(manifests):
    policies = {"policy": manifests["llama"], "reference": None}
    engine = TransformersEngine(manifests["llama"], policies, [1], torch.float32, "cpu")
    with pytest.raises(InputError, match="reference: missing; component reference samples from it"):
        engine.generate(REFERENCE, PROMPTS, [1, 1], [1, 2], SamplingParams(max_new_tokens=4))
    assert engine.models_per_token(POLICY) == 1
