"""Faster decoding on a GPU, where a step with one token per row reads the whole key-value cache."""

from typing import Any

import torch
from torch import Tensor, nn

from prefloop.models._compat import sdpa, use_attention
from prefloop.models.cpu_decoding import grouped_attention, is_plain_attention

DECODING_ATTENTION = "prefloop_decoding"  # name of this attention among those of transformers


def optimize_for_gpu_decoding(model: nn.Module) -> None:
    """Make a model on a GPU use `decoding_attention`, if its layers allow it. A model on a CPU is not changed."""
    if next(model.parameters()).device.type == "cuda":
        attend_by_groups(model)


def attend_by_groups(model: nn.Module) -> bool:
    """Make a model use `decoding_attention`, if its layers allow it, and return whether they do."""
    token = {"input_ids": torch.zeros((1, 1), dtype=torch.long, device=next(model.parameters()).device)}
    return use_attention(model, DECODING_ATTENTION, decoding_attention, "eager_mask", is_plain_attention, token)


def decoding_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention that reads the keys and values of a group once per token, without a copy for each head.

    With a mask, transformers' attention copies them for each head of the group, at every token and layer, because
    PyTorch's fused kernel does not support groups with a mask. A prompt is read only once, so it still uses that
    kernel.

    Args:
        module (nn.Module): The attention layer that calls this function.
        query (Tensor): [rows, heads, tokens, size].
        key (Tensor): [rows, groups, length, size].
        value (Tensor): [rows, groups, length, value size].
        attention_mask (Tensor | None): [rows, 1, tokens, length], added to the scores.
        **options: Everything else that the layer passes to its attention.

    Returns:
        tuple[Tensor, None]: [rows, tokens, heads, value size], and no attention weights.
    """
    if query.shape[2] == 1:
        return grouped_attention(module, query, key, value, attention_mask, **options)
    return sdpa(module, query, key, value, attention_mask, **options), None
