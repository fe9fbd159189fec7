"""Batches of token sequences: formed in one fixed order, padded so that all responses start in one column."""

from collections.abc import Sequence

import torch
from torch import Tensor


def batches_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices in batches of `size`, longest first (so memory peaks at once), equal lengths in their order.

    Depends on the lengths alone, so whoever takes whole batches, in whatever number of shards, sees the same ones.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def left_pad(sequences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [rows, longest], padded on the left."""
    width = max(map(len, sequences))
    ids = torch.tensor([[pad] * (width - len(s)) + list(s) for s in sequences])
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences])
    return ids, mask


def right_pad(sequences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [rows, longest], padded on the right."""
    width = max(map(len, sequences))
    ids = torch.tensor([list(s) + [pad] * (width - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
    return ids, mask


def positions_of(mask: Tensor) -> Tensor:
    """Position of each token among its row's real tokens, [rows, width]; 0 on left padding."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
