"""Samplers: components compared with hand-computed ones, and mixtures of two models compared token by token."""

import math

import pytest
import torch

from prefloop.config.generation_settings import SamplingParams
from prefloop.generation.decoding import WeightedModel, next_tokens, sample_responses
from prefloop.methods.samplers import POLICY, REFERENCE, SAMPLERS, Mixp, Sampling, models_of
from prefloop.models.chat import eos_ids, prompt_ids
from prefloop.models.loading import load_policy, reference_for

BY_HAND = {  # for four responses, uniforms 0.2 and 0.6 of the prompt, and p = 0.3
    "policy": ["policy"] * 4,
    "reference": ["reference"] * 4,
    "policy_reference": ["policy", "policy", "reference", "reference"],
    "best_worst": ["policy"] * 4,
    "mixp": ["policy", "policy", "beyond", "between"],
    "dataset": ["chosen", "rejected"],
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_components_by_hand(name):
    assert [c.name for c in SAMPLERS[name](4, [0.2, 0.6], Mixp())] == BY_HAND[name]


def test_mixp_has_the_weights_of_the_paper():
    weights = [(c.policy, c.reference) for c in SAMPLERS["mixp"](2, [0.9], Mixp())]
    assert weights == [(1.5, -0.5), (0.5, 0.5)]
    assert all(sum(w) == 1 for w in weights), "a mixture of two equal models is the same model"


def test_share_of_policy_pairs_follows_rmax():
    """①:② = 2 : (e^rmax + e^−rmax)."""
    assert Mixp(p=0.3).share == 0.3
    assert Mixp(rmax=0.0).share == pytest.approx(0.5)
    assert Mixp(rmax=1.0).share == pytest.approx(2 / (2 + math.e + 1 / math.e))


def test_only_models_that_a_component_may_need_are_loaded():
    assert models_of(Sampling("reference", 4)) == ["reference"]
    assert models_of(Sampling("policy", 4)) == ["policy"]
    assert models_of(Sampling("policy_reference", 4)) == ["policy", "reference"]
    assert models_of(Sampling("mixp", 2)) == ["policy", "reference"]
    assert models_of(Sampling("mixp", 2, Mixp(p=1.0))) == ["policy"]
    assert models_of(Sampling("dataset", 2)) == []


TEXTS = ["why?", "what is the answer to a question that is this long?", "good"]


@pytest.fixture(params=["lora", "full"])
def pair(request, manifests, trained):
    """A trained policy and its initial policy: an adapter on shared base weights, or two models."""
    policy, manifest = trained(request.param), manifests["llama"]
    network, tokenizer = load_policy(manifest, policy, torch.float32, "cpu")
    other, context = reference_for(network, policy, manifest, manifest, torch.float32, "cpu")
    assert (other is network) == (request.param == "lora"), "an adapter and its reference share the base weights"
    return network, other, context, tokenizer


def sample(models, tokenizer, counts, uniforms):
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in TEXTS]
    eos = eos_ids(tokenizer, models[0].model.generation_config)
    return sample_responses(models, prompts, counts, uniforms, SamplingParams(0.7), eos)


UNIFORMS = torch.rand(7, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
COUNTS = [2, 1, 4]


def test_weights_one_and_zero_are_policy_and_reference(pair):
    network, other, context, tokenizer = pair
    policy = sample([WeightedModel(network)], tokenizer, COUNTS, UNIFORMS)
    with context():
        reference = sample([WeightedModel(other)], tokenizer, COUNTS, UNIFORMS)
    assert policy != reference, "the policy must differ from its reference for this test"
    mixed = [
        sample([WeightedModel(network, w), WeightedModel(other, r, context)], tokenizer, COUNTS, UNIFORMS)
        for w, r in [(POLICY.policy, POLICY.reference), (REFERENCE.policy, REFERENCE.reference)]
    ]
    assert mixed == [policy, reference]


@pytest.mark.parametrize("weights", [(1.5, -0.5), (0.5, 0.5)])
def test_mixture_equals_a_naive_loop_over_two_models(pair, weights):
    """The loop mixes logits before the temperature, from full forward passes of both models at every position."""
    network, other, context, tokenizer = pair
    models = [WeightedModel(network, weights[0]), WeightedModel(other, weights[1], context)]
    fast = sample(models, tokenizer, COUNTS, UNIFORMS)
    eos, expected = eos_ids(tokenizer, network.generation_config), []
    rows = [text for text, count in zip(TEXTS, COUNTS, strict=True) for _ in range(count)]
    for text, uniforms in zip(rows, UNIFORMS, strict=True):
        ids, response = prompt_ids(tokenizer, [{"role": "user", "content": text}]), []
        for uniform in uniforms:
            with torch.no_grad():
                logits = weights[0] * network(torch.tensor([ids + response])).logits[:, -1]
                with context():
                    logits = logits + weights[1] * other(torch.tensor([ids + response])).logits[:, -1]
            response.append(next_tokens(logits, uniform[None], SamplingParams(0.7)).item())
            if response[-1] in eos:
                break
        expected.append(response)
    assert fast == expected
    assert len(set(map(tuple, fast))) > 1
