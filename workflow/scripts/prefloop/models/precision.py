"""The same arithmetic in scoring and training: weights in one dtype, and a float32 master of each trained weight.

A policy computes in training exactly as in scoring, so that its first log-probabilities are those of its reference.
The optimizer changes the masters. Gradients are summed there, also in float32, and the weights are the rounded masters
(Micikevicius et al. 2018, arXiv 1710.03740). FSDP2's mixed precision does the same with shards.
"""

from typing import cast

import torch
from torch import Tensor, nn


def cast_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Round all parameters of a model in place, but not its buffers, unlike `model.to(dtype)`.

    Rotary frequencies are buffers. In bfloat16, the angle of a token at position 500 would be off by up to one radian.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model


def keep_masters(model: nn.Module, dtype: torch.dtype) -> None:
    """Round the trained parameters of a model, and keep the unrounded ones as their masters.

    From then on, a backward pass adds gradients to the masters and leaves none on the parameters.

    Args:
        model (nn.Module): The model on its device, with trained parameters in float32.
        dtype (torch.dtype): The dtype of the arithmetic; with float32 nothing changes.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != dtype:
            parameter.master = nn.Parameter(parameter.data)  # type: ignore[attr-defined]
            parameter.data = parameter.data.to(dtype)
            parameter.register_post_accumulate_grad_hook(move_gradient)


@torch.no_grad()
def move_gradient(parameter: Tensor) -> None:
    """Add a parameter's gradient to that of its master."""
    master, grad = master_of(parameter), cast(Tensor, parameter.grad)
    master.grad = grad.to(master.dtype) if master.grad is None else master.grad.add_(grad)
    parameter.grad = None


def master_of(parameter: Tensor) -> Tensor:
    """A parameter's master; the parameter itself if it has none."""
    return getattr(parameter, "master", parameter)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters for an optimizer, by name: the trained parameters of a model, or their masters."""
    return {name: cast(nn.Parameter, master_of(p)) for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def round_masters(model: nn.Module) -> None:
    """Copy the masters, rounded, to a model's parameters after an optimizer step."""
    for parameter in model.parameters():
        if master_of(parameter) is not parameter:
            parameter.copy_(master_of(parameter))
