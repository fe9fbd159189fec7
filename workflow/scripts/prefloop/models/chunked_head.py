"""Log-probabilities of given tokens from a language model's last hidden states, without all the logits at once."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Tokens whose logits are in memory at a time: 256 × 49,152 numbers are 50 MB in float32. The number for a GPU is
# larger, because the gradient of a trained head is read and written once per chunk: 2,048 × 151,936 numbers are 1.2 GB.
CHUNKS = {"cpu": 256, "cuda": 2048}
SOFTMAX_BLOCK = 16  # tokens of a chunk whose softmax a CPU computes at a time: 3 MB


class ChunkedLogProb(torch.autograd.Function):
    """log π of one token per hidden state.

    With z = W h, the gradient of log π(y) = z_y − log Σ_v exp z_v with respect to h is W_y − Σ_v π_v W_v, whatever the
    loss. If the head is frozen, the forward pass computes this gradient from a chunk's logits, and the backward pass
    multiplies it by the gradient of the loss. Logits are neither stored nor computed twice. If the head is trained, the
    backward pass recomputes them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        precompute_grad: bool,
        collisions: Tensor | None = None,
    ) -> Tensor:
        """Compute log-probabilities chunk by chunk.

        Args:
            ctx: Autograd's context.
            states (Tensor): [tokens, hidden].
            weight (Tensor): [vocabulary, hidden].
            bias (Tensor | None): [vocabulary].
            tokens (Tensor): [tokens], ids.
            precompute_grad (bool): Whether the gradient is needed for `states`, but not for `weight`.
            collisions (Tensor | None): [tokens]; if given, overwritten by log Σ_v π_v², without a gradient.

        Returns:
            Tensor: [tokens], nats, float32.
        """
        logps = torch.empty(len(states), dtype=torch.float32, device=states.device)
        grad_states = torch.empty_like(states if precompute_grad else states[:0])
        for chunk in chunks(states):
            logits = F.linear(states[chunk], weight, bias)
            of_chunk = None if collisions is None else collisions[chunk]
            logps[chunk] = token_logprobs(logits, tokens[chunk], precompute_grad, of_chunk)
            if precompute_grad:
                grad_states[chunk] = logits @ weight
        ctx.precompute_grad = precompute_grad
        ctx.save_for_backward(*((grad_states,) if precompute_grad else (states, weight, bias, tokens)))
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for `states`, `weight` and `bias`, from the gradient of the result, [tokens]."""
        (grad,) = grads
        if ctx.precompute_grad:
            (grad_states,) = ctx.saved_tensors
            return (grad[:, None] * grad_states).to(grad_states.dtype), None, None, None, None, None
        states, weight, bias, tokens = ctx.saved_tensors
        grad_states = torch.empty_like(states)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = torch.zeros(len(weight), dtype=torch.float32, device=weight.device)
        for chunk in chunks(states):
            grad_logits = F.linear(states[chunk], weight, bias)
            token_logprobs(grad_logits, tokens[chunk], residual=True)
            grad_logits *= grad[chunk, None]
            grad_states[chunk] = grad_logits @ weight
            grad_weight += product_in_float32(grad_logits.T, states[chunk])
            if bias is not None:
                grad_bias += grad_logits.sum(dim=0)
        grad_of_bias = None if bias is None else grad_bias.to(bias.dtype)
        return grad_states, grad_weight.to(weight.dtype), grad_of_bias, None, None, None


def chunks(rows: Tensor, size: int | None = None) -> Iterator[slice]:
    """Slices of `size` rows, by default the device's value in CHUNKS; the last one may be smaller."""
    size = size or CHUNKS.get(rows.device.type, CHUNKS["cuda"])
    return (slice(start, start + size) for start in range(0, len(rows), size))


def product_in_float32(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product for accumulation: in half precision on a GPU, it is not rounded before it is added."""
    is_rounded = a.is_cuda and a.dtype in (torch.bfloat16, torch.float16)
    return torch.mm(a, b, out_dtype=torch.float32) if is_rounded else a @ b


def token_logprobs(logits: Tensor, tokens: Tensor, residual: bool, collisions: Tensor | None = None) -> Tensor:
    """log π of given tokens.

    On a CPU, the softmax is computed for few rows at a time, so that their float32 copy stays in the processor's cache.

    Args:
        logits (Tensor): [tokens, vocabulary]. With `residual` they are overwritten by the gradient of log π(token) with
            respect to them, 1[v = token] − π_v.
        tokens (Tensor): [tokens], ids.
        residual (bool): Whether this gradient is needed.
        collisions (Tensor | None): [tokens]; if given, overwritten by log Σ_v π_v².

    Returns:
        Tensor: [tokens], nats, float32.
    """
    logps = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    for block in chunks(logits, SOFTMAX_BLOCK if logits.device.type == "cpu" else None):
        log_softmax = torch.log_softmax(logits[block].float(), dim=1)
        logps[block] = log_softmax.gather(1, tokens[block, None]).squeeze(1)
        if collisions is not None:
            collisions[block] = torch.logsumexp(2 * log_softmax, dim=1)
        if residual:
            gradient = log_softmax.exp_().neg_()
            gradient[torch.arange(len(gradient), device=gradient.device), tokens[block]] += 1
            logits[block] = gradient
    return logps


def head_logprobs(head: nn.Linear, states: Tensor, tokens: Tensor, collisions: Tensor | None = None) -> Tensor:
    """log π of given tokens from a linear head's input; gradients flow.

    Args:
        head (nn.Linear): The output head.
        states (Tensor): [tokens, hidden], the states that predict the tokens.
        tokens (Tensor): [tokens], ids.
        collisions (Tensor | None): [tokens]; if given, overwritten by log Σ_v π_v², without a gradient.

    Returns:
        Tensor: [tokens], nats, float32.
    """
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    weight = head.weight.to(dtype)
    precompute_grad = torch.is_grad_enabled() and states.requires_grad and not weight.requires_grad
    with torch.autocast(device, enabled=False):
        return ChunkedLogProb.apply(states.to(dtype), weight, bias, tokens, precompute_grad, collisions)


def logit_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log π of given tokens from logits; gradients flow.

    The float32 copy of the logits is made chunk by chunk.

    Args:
        logits (Tensor): [tokens, vocabulary].
        tokens (Tensor): [tokens], ids.

    Returns:
        Tensor: [tokens], nats, float32.
    """
    parts = [torch.log_softmax(logits[c].float(), dim=1).gather(1, tokens[c, None]) for c in chunks(logits)]
    return torch.cat(parts).squeeze(1)


def logit_collisions(logits: Tensor) -> Tensor:
    """log Σ_v π_v² of each row of logits [tokens, vocabulary], without a gradient: [tokens], float32."""
    with torch.no_grad():
        parts = [torch.logsumexp(2 * torch.log_softmax(logits[c].float(), dim=1), dim=1) for c in chunks(logits)]
        return torch.cat(parts)
