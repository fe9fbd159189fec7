"""Sampling token by token from a model or a mixture of models. Every response has its own random numbers."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from prefloop.config.generation_settings import SamplingParams
from prefloop.core.errors import InputError
from prefloop.models.batching import left_pad, positions_of

if TYPE_CHECKING:
    from transformers import Cache

CDF_BLOCK = 256  # weights per block in the search of `invert_cdf`
NUCLEUS_GUESS = 512  # tokens sorted first for top-p; the whole vocabulary is sorted only if they are not enough


class WeightedModel(NamedTuple):
    """A model with the weight of its logits. It runs within `context`, which may select an adapter."""

    model: torch.nn.Module
    weight: float = 1.0
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


@torch.no_grad()
def sample_responses(
    models: Sequence[WeightedModel],
    prompts: Sequence[Sequence[int]],
    counts: Sequence[int],
    uniforms: Tensor,
    params: SamplingParams,
    eos: Sequence[int],
    is_complete: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Sample responses to prompts from the weighted sum of several models' logits.

    Token t of row i is drawn by inverting the distribution function at uniforms[i, t], so a response does not depend on
    its batch. Each prompt is computed once and its cache repeated for its responses. Finished rows leave the batch.

    Args:
        models: Models whose logits are summed before the temperature is applied. Each has its own cache.
        prompts: Token ids of each prompt.
        counts: Responses per prompt.
        uniforms (Tensor): [responses, maximum length], float64 in [0, 1).
        params: Sampling settings. The maximum length and stop strings are ignored here.
        eos: Token ids that end a response.
        is_complete: Whether a response ends for another reason, such as a stop string.

    Returns:
        Token ids of each response, including the token that ended it, in prompt-major order.
    """
    from prefloop.models.kv_cache import select_rows

    device = next(models[0].model.parameters()).device
    responses: list[list[int]] = [[] for _ in range(len(uniforms))]
    repeats = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(counts)).to(device)
    logits, mask, caches = read_prompts(models, prompts, repeats)
    uniforms, ends = uniforms.to(device), set(eos)
    rows, alive = list(range(len(uniforms))), [True] * len(uniforms)  # each row's response; whether it continues
    seen = tokens_in(prompts, logits.shape[1]).to(device)[repeats] if params.repetition_penalty != 1 else None
    for position in range(uniforms.shape[1]):
        logits = logits if seen is None else penalize(logits, seen, params.repetition_penalty)
        tokens = next_tokens(logits, uniforms[:, position], params)
        # Everything that depends on token values is decided here: one device synchronization per position.
        for i, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if alive[i]:
                responses[row].append(token)
                alive[i] = token not in ends and not (is_complete is not None and is_complete(responses[row]))
        if not any(alive) or position == uniforms.shape[1] - 1:
            break
        if sum(alive) <= 0.75 * len(rows):  # shrinking copies the caches, which pays off from a quarter of the batch
            kept = [i for i, is_alive in enumerate(alive) if is_alive]
            index = torch.tensor(kept).to(device)
            for cache in caches:
                select_rows(cache, index)
            rows, alive = [rows[i] for i in kept], [True] * len(kept)
            tokens, mask, uniforms = tokens[index], mask[index], uniforms[index]
            seen = seen[index] if seen is not None else None
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions_of(mask)[:, -1:]
        inputs = {"input_ids": tokens[:, None], "attention_mask": mask, "position_ids": positions}
        logits, caches = mix_logits(models, caches, **inputs)
    return responses


def read_prompts(
    models: Sequence[WeightedModel], prompts: Sequence[Sequence[int]], repeats: Tensor
) -> tuple[Tensor, Tensor, list["Cache"]]:
    """Compute each prompt once and repeat the results for its responses.

    Args:
        models: See `sample_responses`.
        prompts: Token ids of each prompt.
        repeats (Tensor): [responses], the prompt of each response.

    Returns:
        Logits of the first token [responses, vocabulary], attention mask [responses, width], and each model's cache.
    """
    # Imported here because it imports transformers, which not all users of this module need.
    from prefloop.models.kv_cache import preallocate, select_rows

    # Any token of the vocabulary is right, because padding is masked. A tokenizer's own may have no embedding.
    ids, mask = (tensor.to(repeats.device) for tensor in left_pad(prompts, 0))
    # An index tensor, not the number 1: slices are not contiguous, and PyTorch would copy the head once per prompt.
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions_of(mask), "logits_to_keep": last}
    logits, caches = mix_logits(models, [None] * len(models), **inputs)
    for cache in caches:
        select_rows(cache, repeats)
        preallocate(cache)
    return logits[repeats], mask[repeats], caches


def mix_logits(
    models: Sequence[WeightedModel], caches: Sequence["Cache | None"], **inputs: Tensor
) -> tuple[Tensor, list["Cache"]]:
    """The weighted sum of the models' logits [rows, vocabulary] after the last token, and each model's cache."""
    all_logits, new_caches = [], []
    for (model, weight, context), cache in zip(models, caches, strict=True):
        with context():
            output = model(**inputs, past_key_values=cache, use_cache=True)
        if getattr(output, "past_key_values", None) is None:
            raise InputError(
                f"{type(model).__name__}: its state is not in a key-value cache, so transformers cannot sample from it "
                "here; set generation.engine: vllm"
            )
        logits = output.logits[:, -1]
        all_logits.append(weight * logits.float() if len(models) > 1 or weight != 1 else logits)
        new_caches.append(output.past_key_values)
    mixture = all_logits[0]
    for logits in all_logits[1:]:
        mixture = mixture + logits
    return mixture, new_caches


def tokens_in(prompts: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """Whether each prompt contains each token, bool [prompts, vocabulary]."""
    seen = torch.zeros(len(prompts), vocabulary, dtype=torch.bool)
    for row, ids in enumerate(prompts):
        seen[row, torch.tensor(ids)] = True
    return seen


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Reduce the logits of `seen` tokens, bool [rows, vocabulary]: the repetition penalty of CTRL
    (Keskar et al. 2019, arXiv 1909.05858)."""
    logits = logits.float()
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def next_tokens(logits: Tensor, uniforms: Tensor, params: SamplingParams) -> Tensor:
    """Draw one token per row. The order is vLLM's: temperature, min-p, top-k, top-p.

    Args:
        logits (Tensor): [rows, vocabulary].
        uniforms (Tensor): [rows], float64 in [0, 1).
        params: Temperature, min-p, top-k and top-p.

    Returns:
        Tensor: Token ids, [rows].
    """
    if params.temperature == 0:
        return logits.argmax(dim=1)
    logits = logits.to(torch.float32, copy=True).div_(params.temperature)
    if params.min_p > 0:
        least = logits.amax(dim=1, keepdim=True) + math.log(params.min_p)
        logits.masked_fill_(logits < least, -math.inf)
    if params.top_k is None and params.top_p >= 1:
        return invert_cdf(logits.sub_(logits.amax(dim=1, keepdim=True)).exp_(), uniforms)
    vocabulary = logits.shape[1]
    size = min(params.top_k or NUCLEUS_GUESS, vocabulary)
    top, tokens = logits.topk(size, dim=1)
    total = torch.logsumexp(top if params.top_k else logits, dim=1, keepdim=True)
    probabilities = (top - total).exp()
    drawn = tokens.gather(1, invert_cdf(keep_nucleus(probabilities, params.top_p), uniforms)[:, None]).squeeze(1)
    flat = probabilities.sum(dim=1) < params.top_p  # only these rows need more tokens than NUCLEUS_GUESS
    if params.top_k is None and bool(flat.any()):
        top, tokens = logits[flat].sort(dim=1, descending=True, stable=True)
        kept = keep_nucleus((top - total[flat]).exp(), params.top_p)
        drawn[flat] = tokens.gather(1, invert_cdf(kept, uniforms[flat])[:, None]).squeeze(1)
    return drawn


def keep_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Set probabilities [rows, size], in descending order, to 0 after their sum reaches `top_p`."""
    sum_before = probabilities.cumsum(dim=1) - probabilities
    return torch.where(sum_before < top_p, probabilities, 0)


def invert_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first index whose cumulative weight exceeds `uniform` times the total weight.

    The search has two steps, first over sums of blocks and then within a block. This avoids a cumulative sum over the
    whole vocabulary.

    Args:
        weights (Tensor): [rows, size], not normalized.
        uniforms (Tensor): [rows], float64 in [0, 1).

    Returns:
        Tensor: Indices, [rows].
    """
    size = weights.shape[1]
    blocks = F.pad(weights, (0, -size % CDF_BLOCK)).unflatten(1, (-1, CDF_BLOCK))
    sums = blocks.sum(dim=2).double()
    block, rest = search_cumulative(sums, uniforms[:, None] * sums.sum(dim=1, keepdim=True))
    block_weights = blocks.gather(1, block[:, :, None].expand(-1, -1, CDF_BLOCK)).squeeze(1).double()
    return (block * CDF_BLOCK + search_cumulative(block_weights, rest)[0]).squeeze(1)


def search_cumulative(weights: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The first index whose cumulative weight exceeds the target, and the target minus the weights before it.

    Targets are clamped to [0, total), so that rounding never selects an index with weight 0.

    Args:
        weights (Tensor): [rows, size].
        targets (Tensor): [rows, 1].

    Returns:
        Index and remainder of the target, both [rows, 1].
    """
    ends = weights.cumsum(dim=1)
    total = ends[:, -1:]
    targets = targets.clamp(min=0).minimum(total.nextafter(torch.zeros_like(total)))
    index = torch.searchsorted(ends, targets, right=True)
    return index, targets - (ends - weights).gather(1, index)
