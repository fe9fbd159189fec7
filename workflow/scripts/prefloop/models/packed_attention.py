"""Attention over concatenated sequences, without padding. All other operations of a layer work on single tokens."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prefloop.models._compat import may_share_sequences, sdpa, use_attention
from prefloop.models.varlen_attention import VarlenLayout, takes_varlen, varlen_attention

PACKED_ATTENTION = "prefloop"  # name of this attention among those of transformers


class MaskedSequence(NamedTuple):
    """One of the concatenated sequences."""

    length: int
    """Tokens."""
    mask: Tensor | None
    """What each token attends to: bool [1, 1, length, length]; None for causal attention."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sequences: Sequence[MaskedSequence] | VarlenLayout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' scaled dot-product attention, applied to each of `sequences` separately if they are given.

    With a `VarlenLayout`, one kernel computes all sequences. Otherwise they are computed one by one: splitting copies
    nothing, and no sequence is padded to the longest one. On a CPU, bfloat16 is computed in float32, whose backward
    pass takes half as long there (benchmarks/RESULTS.md, Training).

    Args:
        module (nn.Module): The attention layer that calls this function.
        query (Tensor): [1, heads, tokens, size].
        key (Tensor): [1, groups, tokens, size].
        value (Tensor): [1, groups, tokens, size].
        attention_mask (Tensor | None): transformers' own mask; ignored if `sequences` are given.
        sequences (Sequence[MaskedSequence] | VarlenLayout | None): The sequences, in order; their lengths sum to the
            number of tokens.
        **options: Everything else that the layer passes to its attention.

    Returns:
        tuple[Tensor, None]: [1, tokens, heads, size], and no attention weights.
    """
    if sequences is None:
        return sdpa(module, query, key, value, attention_mask, **options), None
    if isinstance(sequences, VarlenLayout):
        return varlen_attention(query, key, value, sequences, options.get("scaling")), None
    lengths, device, dtype = [sequence.length for sequence in sequences], query.device.type, query.dtype
    in_float32 = device == "cpu"
    if in_float32:
        query, key, value = query.float(), key.float(), value.float()
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    with torch.autocast(device, enabled=False) if in_float32 else contextlib.nullcontext():
        outputs = [
            sdpa(module, q, k, v, sequence.mask, **options)
            for (q, k, v), sequence in zip(parts, sequences, strict=True)
        ]
    return torch.cat(outputs, dim=1).to(dtype), None


def use_packed_attention(model: nn.Module) -> tuple[bool, bool]:
    """Make a model accept concatenated sequences, including several responses to one prompt, if it supports them.

    A model with suitable code and config is run once on two sequences of one token, because some models do not
    pass unknown arguments on to their layers.

    Args:
        model (nn.Module): A causal language model, adapters and wrappers included; its config is changed.

    Returns:
        tuple[bool, bool]: Whether the model accepts `packed_inputs` from now on, and whether all of its layers support
        a `VarlenLayout`.
    """
    if not may_share_sequences(model, ("sdpa", PACKED_ATTENTION)):
        return False, False
    zeros, takes = torch.zeros(2, dtype=torch.long, device=next(model.parameters()).device), []

    def is_supported(states: tuple[Any, ...], options: dict[str, Any]) -> bool:
        takes.append(takes_varlen(*states[1:4]) and not options.get("dropout"))
        return options.get("sequences") is not None

    inputs = packed_inputs(zeros, zeros, [MaskedSequence(1, None), MaskedSequence(1, None)])
    packed = use_attention(model, PACKED_ATTENTION, packed_attention, "sdpa_mask", is_supported, inputs)
    return packed, packed and all(takes)


def packed_inputs(ids: Tensor, positions: Tensor, sequences: Sequence[MaskedSequence] | VarlenLayout) -> dict[str, Any]:
    """Keyword arguments of a model with packed attention, from ids and positions of all sequences' tokens, [tokens]."""
    return {
        "input_ids": ids[None],
        "position_ids": positions[None],
        # Not used, but without a mask transformers would make one for all tokens.
        "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool, device=ids.device),
        "sequences": sequences,
        "use_cache": False,
    }
