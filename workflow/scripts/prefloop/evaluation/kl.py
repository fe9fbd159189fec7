"""KL divergence of a policy from its reference, along responses that the policy sampled."""

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

MAX_TOKENS = 2048  # response tokens whose logits exist at a time: 0.6 GB per model in bfloat16 if it has 152k tokens


def kl_divergences(logits: Tensor, logits_ref: Tensor, responses: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """KL(π_θ‖π_ref) along each response of π_θ, and the response's log-ratio.

    KL = Σ_t Σ_v π_θ(v | x, y_<t)·log(π_θ(v | x, y_<t) / π_ref(v | x, y_<t)) over every position of the response,
    including the one that draws EOS. Its mean over responses sampled from π_θ at temperature 1 is the divergence of
    the two distributions of responses. So is the mean of the log-ratio log π_θ(y) − log π_ref(y), which uses only the
    sampled tokens and is noisier (Rao-Blackwellization; Amini et al. 2025, arXiv 2504.10637). Logits are
    copied to float32 one response at a time.

    Args:
        logits (Tensor): [tokens, vocabulary], the policy's, from `response_logits`.
        logits_ref (Tensor): [tokens, vocabulary], the reference's.
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
    """Uniform numbers of all responses, [prompts, samples, tokens], float64."""
    rngs = [rng_for(seed, "divergence", stream, prompt, number) for prompt in prompts for number in range(samples)]
    return torch.from_numpy(np.stack([rng.random(tokens) for rng in rngs])).reshape(-1, samples, tokens)


def sample_divergences(
    models: PolicyAndReference,
    prompts: Sequence[list[int]],
    uniforms: Tensor,
    batch_size: int,
    eos: Sequence[int],
    pad: int,
    meter: CostMeter,
) -> dict[tuple[int, int], MeasuredResponse]:
    """Sample responses from a policy at temperature 1 and measure their divergences.

    Args:
        models (PolicyAndReference): The policy and its reference.
        prompts (Sequence[list[int]]): [prompts], token ids.
        uniforms (Tensor): [prompts, samples, max_new_tokens], in [0, 1), the random numbers of each response.
        batch_size (int): Responses sampled and scored at once.
        eos (Sequence[int]): Tokens that end a response.
        pad (int): Padding token of the prompts.
        meter (CostMeter): Counts the tokens.

    Returns:
        dict: By index of prompt and sample.
    """
    samples, model = uniforms.shape[1], WeightedModel(models.policy.model)
    measured: dict[tuple[int, int], MeasuredResponse] = {}
    with Progress("measure_kl", samples * len(prompts), "response") as progress:
        for batch in batches_by_length(list(map(len, prompts)), max(1, batch_size // samples)):
            inputs, random_numbers = [prompts[i] for i in batch], uniforms[batch].flatten(0, 1)
            responses = sample_responses(
                [model], inputs, [samples] * len(batch), random_numbers, SamplingParams(), eos, pad
            )
            meter.forward(sum(map(len, inputs)), sum(map(len, responses)))
            repeated = [prompt for prompt in inputs for _ in range(samples)]
            keys = [(i, number) for i in batch for number in range(samples)]
            for group in response_groups(list(map(len, responses))):
                values = measure_responses(models, repeated[group], responses[group], meter)
                measured |= dict(zip(keys[group], values, strict=True))
            progress.update(len(keys), sum(map(len, responses)))
    return measured


def response_groups(lengths: Sequence[int]) -> Iterator[slice]:
    """Consecutive responses of at most MAX_TOKENS tokens together, or one longer response.

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
    """Read responses with both models, all their logits at once, and measure their divergences.

    Args:
        models (PolicyAndReference): The policy and its reference.
        prompts (Sequence[list[int]]): [responses], token ids.
        responses (Sequence[list[int]]): [responses], token ids.
        meter (CostMeter): Counts the tokens.
    """
    logits, logits_ref = models.read(partial(response_logits, prompts=prompts, responses=responses))
    meter.forward(models.passes * tokens_read(models.policy, prompts, responses))
    kl, log_ratio = kl_divergences(logits, logits_ref, responses)
    return [MeasuredResponse(*values) for values in zip(responses, kl.tolist(), log_ratio.tolist(), strict=True)]
