"""KL divergence of a policy from its reference, measured on responses that the policy sampled."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefloop.config.generation_settings import SamplingParams
from prefloop.core.costs import CostMeter
from prefloop.core.progress import Progress
from prefloop.core.seeds import rng_for
from prefloop.generation.decoding import WeightedModel, sample_responses
from prefloop.models.batching import batches_by_length
from prefloop.models.loading import PolicyAndReference
from prefloop.models.response_logprobs import response_logits, tokens_read

MAX_TOKENS = 2048  # response tokens whose logits are in memory: 0.6 GB per model for a vocabulary of 152k in bfloat16


def kl_divergences(logits: Tensor, logits_ref: Tensor, responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """KL(π_θ‖π_ref) along each response sampled from π_θ, and the response's log-ratio.

    KL = Σ_t Σ_v π_θ(v | x, y_<t)·log(π_θ(v | x, y_<t) / π_ref(v | x, y_<t)), summed over every position t of the
    response, including that of EOS. If responses are sampled from π_θ at temperature 1, the mean of this sum estimates
    the KL divergence between the two distributions of responses. The mean of the log-ratio log π_θ(y) − log π_ref(y)
    estimates the same divergence, but with more noise, because it uses only the sampled tokens (Rao-Blackwellization;
    Amini et al. 2025, arXiv 2504.10637). Logits are copied to float32 one response at a time.

    Args:
        logits (Tensor): [tokens, vocabulary], logits of the policy, from `response_logits`.
        logits_ref (Tensor): [tokens, vocabulary], logits of the reference.
        responses (Sequence[Sequence[int]]): [responses], token ids.

    Returns:
        tuple[Tensor, Tensor]: KL divergences and log-ratios, both [responses], nats, float32.
    """
    values, lengths = [], list(map(len, responses))
    for part, part_ref, tokens in zip(logits.split(lengths), logits_ref.split(lengths), responses, strict=True):
        logps = torch.log_softmax(part.float(), dim=1)
        ratios = logps - torch.log_softmax(part_ref.float(), dim=1)
        drawn = ratios.gather(1, torch.tensor(tokens, device=ratios.device)[:, None])
        values.append(torch.stack([(logps.exp() * ratios).sum(), drawn.sum()]))
    kl, log_ratio = torch.stack(values).T
    return kl, log_ratio


class MeasuredResponse(NamedTuple):
    """A response that the policy sampled, with its divergence from the reference."""

    ids: list[int]
    """Token ids."""
    kl: float
    """KL divergence along the response, in nats."""
    log_ratio: float
    """log π_θ(y) − log π_ref(y), in nats."""


def draw_uniforms(seed: int, stream: str, prompts: list[str], samples: int, tokens: int) -> torch.Tensor:
    """Uniform random numbers for all responses, [prompts, samples, tokens], float64."""
    rngs = [rng_for(seed, "divergence", stream, prompt, number) for prompt in prompts for number in range(samples)]
    return torch.from_numpy(np.stack([rng.random(tokens) for rng in rngs])).reshape(-1, samples, tokens)


def sample_divergences(
    models: PolicyAndReference,
    prompts: Sequence[list[int]],
    uniforms: Tensor,
    batch_size: int,
    eos: Sequence[int],
    meter: CostMeter,
) -> dict[tuple[int, int], MeasuredResponse]:
    """Sample responses from a policy at temperature 1 and measure their divergences.

    Args:
        models (PolicyAndReference): The policy and its reference.
        prompts (Sequence[list[int]]): [prompts], token ids.
        uniforms (Tensor): [prompts, samples, max_new_tokens], random numbers in [0, 1) for each response.
        batch_size (int): Responses sampled per batch.
        eos (Sequence[int]): Tokens that end a response.
        meter (CostMeter): Counts the tokens.

    Returns:
        dict: The measured response by (index of the prompt, number of the sample).
    """
    samples, model = uniforms.shape[1], WeightedModel(models.policy.model)
    measured: dict[tuple[int, int], MeasuredResponse] = {}
    with Progress("measure_kl", samples * len(prompts), "response") as progress:
        for batch in batches_by_length(list(map(len, prompts)), max(1, batch_size // samples)):
            inputs, random_numbers = [prompts[i] for i in batch], uniforms[batch].flatten(0, 1)
            responses = sample_responses([model], inputs, [samples] * len(batch), random_numbers, SamplingParams(), eos)
            meter.forward(sum(map(len, inputs)), sum(map(len, responses)))
            repeated = [prompt for prompt in inputs for _ in range(samples)]
            keys = [(i, number) for i in batch for number in range(samples)]
            for group in response_groups(list(map(len, responses))):
                values = measure_responses(models, repeated[group], responses[group], meter)
                measured |= dict(zip(keys[group], values, strict=True))
            progress.update(len(keys), sum(map(len, responses)))
    return measured


def response_groups(lengths: Sequence[int]) -> Iterator[slice]:
    """Slices of consecutive responses with at most MAX_TOKENS tokens in total, or of one longer response.

    Args:
        lengths (Sequence[int]): [responses], tokens.
    """
    start, tokens = 0, 0
    for i, length in enumerate(lengths):
        if i > start and tokens + length > MAX_TOKENS:
            yield slice(start, i)
            start, tokens = i, 0
        tokens += length
    yield slice(start, len(lengths))


def measure_responses(
    models: PolicyAndReference, prompts: Sequence[list[int]], responses: Sequence[list[int]], meter: CostMeter
) -> list[MeasuredResponse]:
    """Measure the divergences of responses, with all their logits in memory at once.

    Args:
        models (PolicyAndReference): The policy and its reference.
        prompts (Sequence[list[int]]): [responses], token ids of each response's prompt.
        responses (Sequence[list[int]]): [responses], token ids.
        meter (CostMeter): Counts the tokens.
    """
    logits, logits_ref = models.read(partial(response_logits, prompts=prompts, responses=responses))
    meter.forward(models.passes * tokens_read(models.policy, prompts, responses))
    kl, log_ratio = kl_divergences(logits, logits_ref, responses)
    return [MeasuredResponse(*values) for values in zip(responses, kl.tolist(), log_ratio.tolist(), strict=True)]
