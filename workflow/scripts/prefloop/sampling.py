"""How responses are sampled: a decoding loop whose randomness belongs to the response, not to the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.batching import left_pad, positions_of

SAMPLERS = ("policy", "reference")  # which model answers: the policy before the round, or the frozen reference
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


@torch.no_grad()
def generate(
    model,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    decoding: Decoding,
    eos: Sequence[int],
    pad: int,
) -> list[list[int]]:
    """Sample n responses to each prompt; token ids in prompt-major order, EOS included where it was reached.

    `uniforms` [prompts·n, longest response], float64 in [0, 1): row i's t-th token is drawn with
    uniforms[i, t] by inverting its distribution function, so what is random in a response is its own;
    a response that reaches no EOS is cut at their end. Prompts run once and their cache is repeated n
    times; finished rows leave the batch.
    """
    device = next(model.parameters()).device
    n = len(uniforms) // len(prompts)
    ids, mask = (tensor.to(device) for tensor in left_pad(prompts, pad))
    # An index, not the number 1: a slice is not contiguous, and PyTorch would then copy the head once a prompt.
    last = torch.tensor([ids.shape[1] - 1], device=device)
    positions = positions_of(mask)
    step = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=last)
    cache = step.past_key_values
    cache.batch_repeat_interleave(n)
    logits = step.logits[:, -1].repeat_interleave(n, dim=0)
    mask = mask.repeat_interleave(n, dim=0)
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
        if alive.sum() <= 0.75 * len(rows):  # shrinking copies the cache: worth it for a quarter of the batch
            keep = alive.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            rows, alive, tokens, mask = rows[keep], alive[keep], tokens[keep], mask[keep]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        logits = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions_of(mask)[:, -1:],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return responses


def next_tokens(logits: Tensor, uniforms: Tensor, decoding: Decoding) -> Tensor:
    """One token a row: logits [rows, vocabulary], uniforms [rows] in [0, 1) → token ids [rows].

    Temperature first, then top-k, then top-p on what is left (the order of transformers and vLLM).
    """
    if decoding.temperature == 0:
        return logits.argmax(dim=1)
    logits = logits.float() / decoding.temperature
    if decoding.top_k is None and decoding.top_p >= 1:
        return invert(torch.softmax(logits, dim=1), uniforms)
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
    """The first index whose cumulative weight exceeds uniform·total: weights [rows, size] → indices [rows]."""
    cumulative = weights.double().cumsum(dim=1)
    targets = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(1).clamp(max=weights.shape[1] - 1)
