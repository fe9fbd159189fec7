"""Engines that sample responses: the protocol and the transformers engine. vLLM's is in `generation.vllm_engine`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from prefloop.config.generation_settings import SamplingParams
from prefloop.core.errors import InputError
from prefloop.generation.decoding import WeightedModel, sample_responses
from prefloop.generation.stop_strings import StopStrings
from prefloop.methods.samplers import Component
from prefloop.models.cpu_decoding import optimize_for_cpu_decoding
from prefloop.models.gpu_decoding import optimize_for_gpu_decoding
from prefloop.models.loading import load_merged, load_policy, reference_for


class Engine(Protocol):
    """Samples responses. The random numbers of a response depend only on its seed."""

    forms_batches: bool
    """Whether the engine forms batches itself, so that it should get all responses in one call."""

    def generate(
        self,
        component: Component,
        prompts: Sequence[list[int]],
        counts: Sequence[int],
        seeds: Sequence[int],
        params: SamplingParams,
    ) -> list[list[int]]:
        """Sample responses from a component.

        Args:
            component: The policy, the reference, or a mixture of both.
            prompts: Token ids of each prompt.
            counts: Responses per prompt.
            seeds: Seed of each response, in prompt-major order.
            params: Sampling settings and the maximum length.

        Returns:
            Token ids of each response, including the token that ended it, in prompt-major order.
        """

    def models_per_token(self, component: Component) -> int:
        """Number of models that are run for each token of a component."""


def weighted_policies(component: Component, policies: dict[str, Path | None]) -> list[tuple[Path, float]]:
    """The policy files that a component needs, with their weights; InputError if one is missing."""
    weighted = []
    for name, policy in policies.items():
        if (weight := getattr(component, name)) != 0:
            if policy is None:
                raise InputError(f"{name}: missing; component {component.name} samples from it")
            weighted.append((policy, weight))
    return weighted


class TransformersEngine:
    """An `Engine` that decodes with transformers and holds few copies of the weights in memory.

    A component of one model loads only that model, with its adapter merged, and only one such model is in memory at a
    time. A mixture loads both models, which share the base weights if the policy is an adapter.
    """

    forms_batches = False

    def __init__(
        self,
        model: Path,
        policies: dict[str, Path | None],
        eos: list[int],
        dtype: torch.dtype,
        device: str,
        stop: StopStrings | None = None,
    ) -> None:
        """Store the settings. Models are loaded when a component needs them.

        Args:
            model: Manifest of the base model.
            policies: Files of `policy` and `reference`; None for a model that no component needs.
            eos: Token ids that end a response.
            dtype: Dtype of the weights.
            device: Device on which models run.
            stop: Strings that end a response.
        """
        self.model, self.policies, self.dtype, self.device = model, policies, dtype, device
        self.eos, self.stop = eos, stop
        self.loaded: dict[Path, WeightedModel] = {}

    def generate(
        self,
        component: Component,
        prompts: Sequence[list[int]],
        counts: Sequence[int],
        seeds: Sequence[int],
        params: SamplingParams,
    ) -> list[list[int]]:
        """See `Engine.generate`."""
        generators = [np.random.Generator(np.random.Philox(seed)) for seed in seeds]
        uniforms = np.stack([generator.random(params.max_new_tokens) for generator in generators])
        models, is_complete = self.load(component), self.stop.completed if self.stop is not None else None
        drawn = torch.from_numpy(uniforms)
        return sample_responses(models, prompts, counts, drawn, params, self.eos, is_complete)

    def models_per_token(self, component: Component) -> int:
        return len(self.load(component))

    def load(self, component: Component) -> list[WeightedModel]:
        """Load the models of a component: only one if policy and reference are the same file, as in round 1."""
        weights: dict[Path, float] = {}
        for policy, weight in weighted_policies(component, self.policies):
            weights[policy] = weights.get(policy, 0.0) + weight
        if weights.keys() != self.loaded.keys():
            self.loaded = {}  # free the memory first
            self.loaded = self.load_policies(list(weights))
        return [self.loaded[policy]._replace(weight=weight) for policy, weight in weights.items()]

    def load_policies(self, policies: Sequence[Path]) -> dict[Path, WeightedModel]:
        """Load a single policy with its adapter merged, or both the policy and the reference."""
        policy, *references = policies
        if not references:
            merged, _ = load_merged(self.model, policy, self.dtype, self.device)
            optimize_for_cpu_decoding(merged)
            optimize_for_gpu_decoding(merged)
            return {policy: WeightedModel(merged)}
        (reference,) = references
        policy_model, _ = load_policy(self.model, policy, self.dtype, self.device)
        reference_model, context = reference_for(policy_model, policy, reference, self.model, self.dtype, self.device)
        for model in (policy_model, reference_model):
            optimize_for_gpu_decoding(model)
        return {policy: WeightedModel(policy_model), reference: WeightedModel(reference_model, context=context)}
