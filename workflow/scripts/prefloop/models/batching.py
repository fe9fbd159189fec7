"""Batches of token sequences, in a fixed order, with padding on the left or right."""

from collections.abc import Sequence

import torch
from torch import Tensor


def batches_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Cut sequences into batches, longest first, so that memory peaks in the first batch.

    The batches depend only on the lengths. So the shards of a stage, which take whole batches, agree on them.

    Args:
        lengths (Sequence[int]): [sequences], tokens; equal lengths keep their order.
        size (int): Sequences per batch.

    Returns:
        list[list[int]]: Indices of each batch's sequences.
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


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device. A copy to a GPU does not wait for the GPU's earlier work."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def send_lists(lists: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
    """Copy lists of integers to a device in one transfer, as int64 tensors."""
    values = torch.tensor([value for numbers in lists for value in numbers], dtype=torch.long)
    return list(send(values, device).split([len(numbers) for numbers in lists]))


def positions_of(mask: Tensor) -> Tensor:
    """Position of each token among its row's real tokens, [rows, width]; 0 on left padding."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)
