"""Attention over concatenated sequences in one kernel on a GPU: PyTorch's variable-length flash attention."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class VarlenLayout(NamedTuple):
    """Which tokens attend to which, on the device; each prompt and each response is a segment.

    Within a segment, the last token attends to all of its keys, the one before to all but the last key, and so on.
    """

    keys: Tensor
    """Indices of all segments' keys among the concatenated tokens: int64 [keys]."""
    query_starts: Tensor
    """Index of each segment's first token, then the number of all tokens: int32 [segments + 1]."""
    key_starts: Tensor
    """The same for keys: int32 [segments + 1]."""
    max_queries: int
    """Tokens of the longest segment."""
    max_keys: int
    """Keys of the segment with the most."""


def plan_segments(lengths: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """The segments of concatenated sequences. The keys of a response are its prompt's and its own.

    Responses of one token give empty segments, which are left out.

    Args:
        lengths (Sequence[Sequence[int]]): For each sequence the tokens of its prompt, then those of each response.

    Returns:
        tuple: `keys`, `query_starts` and `key_starts` of a `VarlenLayout`.
    """
    keys, query_starts, key_starts, start = [], [0], [0], 0
    for prompt, *responses in lengths:
        shared = range(start, start + prompt)
        for number, length in enumerate((prompt, *responses)):
            if length:
                keys += [*(shared if number else ()), *range(start, start + length)]
                query_starts.append(query_starts[-1] + length)
                key_starts.append(len(keys))
            start += length
    return keys, query_starts, key_starts


def takes_varlen(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether flash attention supports these: half precision, an Ampere or newer GPU, and certain sizes of heads."""
    size = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.dtype == key.dtype == value.dtype
        and size == value.shape[-1]
        and size % 8 == 0
        and size <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, layout: VarlenLayout, scale: float | None) -> Tensor:
    """Causal attention of each segment to its keys; gradients flow.

    Args:
        query (Tensor): [1, heads, tokens, size].
        key (Tensor): [1, groups, tokens, size].
        value (Tensor): [1, groups, tokens, size].
        layout (VarlenLayout): The segments of the tokens.
        scale (float | None): Factor of the scores, by default 1 / sqrt(size).

    Returns:
        Tensor: [1, tokens, heads, size].
    """
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    output: Tensor = varlen_attn(  # type: ignore[assignment]  # a tuple only on request
        query,
        key.index_select(0, layout.keys),
        value.index_select(0, layout.keys),
        layout.query_starts,
        layout.key_starts,
        layout.max_queries,
        layout.max_keys,
        scale=scale,
        window_size=(-1, 0),  # causal, aligned to the last key
        enable_gqa=True,
    )
    return output[None]
