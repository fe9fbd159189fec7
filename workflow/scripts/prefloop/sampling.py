"""How responses are sampled: a decoding loop over one model or several, whose
randomness belongs to the response and not to the batch."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from prefloop.batching import left_pad, positions_of

BLOCK = 256  # tokens whose weights are summed before one of them is looked for
NUCLEUS_GUESS = 512  # tokens sorted at first for top-p; the whole vocabulary only where they do not suffice


@dataclass
class Decoding:
    """How one token follows another."""

    temperature: float = 1.0
    """Divides the logits before the softmax; 0 takes the most probable token."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with at least this probability."""
    top_k: int | None = None
    """Sample from this many most probable tokens; all if not given."""


class Voice(NamedTuple):
    """One model's say in the next token: its logits times `weight`; within `context` the model is the one meant."""

    model: torch.nn.Module
    weight: float = 1.0
    context: Callable = contextlib.nullcontext


@torch.no_grad()
def generate(
    voices: Sequence[Voice],
    prompts: Sequence[Sequence[int]],
    counts: Sequence[int],
    uniforms: Tensor,
    decoding: Decoding,
    eos: Sequence[int],
    pad: int,
) -> list[list[int]]:
    """Sample counts[i] responses to prompts[i]; token ids in prompt-major order, EOS included where it was reached.

    The next token's logits are the weighted sum over `voices`, before temperature; each voice keeps its own cache.
    `uniforms` [Σ counts, longest response], float64 in [0, 1): row i's t-th token is drawn with uniforms[i, t] by
    inverting its distribution function, so what is random in a response is its own; a response that reaches no
    EOS is cut at their end. Prompts run once and their cache is repeated; finished rows leave the batch.
    """
    from prefloop.caches import make_room  # which imports transformers, as some that sample by themselves do not

    device = next(voices[0].model.parameters()).device
    ids, mask = (tensor.to(device) for tensor in left_pad(prompts, pad))
    # An index, not the number 1: a slice is not contiguous, and PyTorch would then copy the head once a prompt.
    last = torch.tensor([ids.shape[1] - 1], device=device)
    start = {"input_ids": ids, "attention_mask": mask, "position_ids": positions_of(mask), "logits_to_keep": last}
    logits, caches = speak(voices, [None] * len(voices), **start)
    repeated = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(counts)).to(device)
    for cache in caches:
        cache.batch_select_indices(repeated)
        make_room(cache)
    logits, mask = logits[repeated], mask[repeated]
    uniforms, eos_tokens = uniforms.to(device), torch.tensor(eos, device=device)
    responses: list[list[int]] = [[] for _ in range(len(uniforms))]
    rows = torch.arange(len(uniforms), device=device)  # which response each row of the batch is
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    for position in range(uniforms.shape[1]):
        tokens = next_tokens(logits, uniforms[rows, position], decoding)
        for row, token, is_alive in zip(rows.tolist(), tokens.tolist(), alive.tolist(), strict=True):
            if is_alive:
                responses[row].append(token)
        alive &= ~torch.isin(tokens, eos_tokens)
        if not alive.any() or position == uniforms.shape[1] - 1:
            break
        if alive.sum() <= 0.75 * len(rows):  # shrinking copies the caches: worth it for a quarter of the batch
            keep = alive.nonzero().squeeze(1)
            for cache in caches:
                cache.batch_select_indices(keep)
            rows, alive, tokens, mask = rows[keep], alive[keep], tokens[keep], mask[keep]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions_of(mask)[:, -1:]
        step = {"input_ids": tokens[:, None], "attention_mask": mask, "position_ids": positions}
        logits, caches = speak(voices, caches, **step)
    return responses


def speak(voices: Sequence[Voice], caches: Sequence, **inputs: Tensor) -> tuple[Tensor, list]:
    """The weighted logits [rows, vocabulary] after the last token, and each voice's cache."""
    mixed, after = None, []
    for voice, cache in zip(voices, caches, strict=True):
        with voice.context():
            step = voice.model(**inputs, past_key_values=cache, use_cache=True)
        logits = step.logits[:, -1]
        if len(voices) > 1 or voice.weight != 1:
            logits = voice.weight * logits.float()
        mixed = logits if mixed is None else mixed + logits
        after.append(step.past_key_values)
    return mixed, after


def next_tokens(logits: Tensor, uniforms: Tensor, decoding: Decoding) -> Tensor:
    """One token a row: logits [rows, vocabulary], uniforms [rows] in [0, 1) → token ids [rows].

    Temperature first, then top-k, then top-p on what is left (the order of transformers and vLLM).
    """
    if decoding.temperature == 0:
        return logits.argmax(dim=1)
    logits = logits.to(torch.float32, copy=True).div_(decoding.temperature)
    if decoding.top_k is None and decoding.top_p >= 1:
        return invert(logits.sub_(logits.amax(dim=1, keepdim=True)).exp_(), uniforms)
    vocabulary = logits.shape[1]
    size = min(decoding.top_k or NUCLEUS_GUESS, vocabulary)
    top, tokens = logits.topk(size, dim=1)
    total = torch.logsumexp(top if decoding.top_k else logits, dim=1, keepdim=True)
    probabilities = (top - total).exp()
    drawn = tokens.gather(1, invert(nucleus(probabilities, decoding.top_p), uniforms)[:, None]).squeeze(1)
    flat = probabilities.sum(dim=1) < decoding.top_p  # these rows, and no others, need more than the first guess
    if decoding.top_k is None and bool(flat.any()):
        top, tokens = logits[flat].sort(dim=1, descending=True, stable=True)
        kept = nucleus((top - total[flat]).exp(), decoding.top_p)
        drawn[flat] = tokens.gather(1, invert(kept, uniforms[flat])[:, None]).squeeze(1)
    return drawn


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the first tokens that reach `top_p`: [rows, size] in falling order, the same shape out."""
    before = probabilities.cumsum(dim=1) - probabilities
    return torch.where(before < top_p, probabilities, 0)


def invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first index whose cumulative weight exceeds uniform·total: weights [rows, size] → indices [rows].

    In two steps, first over sums of blocks and then within one block: no running sum over a whole vocabulary is made.
    """
    size = weights.shape[1]
    blocks = F.pad(weights, (0, -size % BLOCK)).unflatten(1, (-1, BLOCK))
    sums = blocks.sum(dim=2).double()
    block, left = exceeding(sums, uniforms[:, None] * sums.sum(dim=1, keepdim=True))
    within = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).squeeze(1).double()
    return (block * BLOCK + exceeding(within, left)[0]).squeeze(1)


def exceeding(weights: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The first index whose cumulative weight exceeds a target, and what of the target is left there; all [rows, 1].

    Rounding leads to no index without weight: a target is taken as at least 0 and less than the total.
    """
    ends = weights.cumsum(dim=1)
    total = ends[:, -1:]
    targets = targets.clamp(min=0).minimum(total.nextafter(torch.zeros_like(total)))
    index = torch.searchsorted(ends, targets, right=True)
    return index, targets - (ends - weights).gather(1, index)
