"""Several processes on one training: where its parameters lie, and how what is spread out comes together again."""

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass
class Running:
    """How a training runs, whatever it computes: of what comes out nothing here changes more than rounding."""

    sharding: Literal["none", "fsdp2"] = "none"
    """Every process holds the whole model, or its share of weights, gradients and optimizer state (PyTorch's FSDP2)."""
    gradient_checkpointing: bool = False
    """Keep a layer's input only and compute the layer again in the backward pass: less memory, a third more work."""
    save_every: int = 50
    """Optimizer steps between two saved states, from which an interrupted training goes on."""


def layers_of(model) -> list[torch.nn.Module]:
    """The blocks that a model of transformers consists of: those that it says must not be split."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in names]


def checkpoint_activations(model) -> None:
    """Let every layer forget what it computed until the backward pass asks (Chen et al. 2016, arXiv 1604.06174).

    transformers' own switch works in training mode only, in which the base model's dropout would be on.
    """
    from torch.utils.checkpoint import checkpoint

    for layer in layers_of(model):
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def spread(model, sharding: str, accelerator):
    """`model` on this process's device, as it is to be called: gradients of all processes come out averaged.

    Sharded, `model` itself changes: its parameters become shards (DTensors), a layer's are brought together while it
    computes, in the arithmetic's dtype, and gradients are added up in float32. Micro-batches exchange gradients one
    by one then: whole ones, kept until the last, would take the memory that shards save.
    """
    if sharding == "none" or accelerator.num_processes == 1:
        return accelerator.prepare(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    half = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=None if half is None else torch.float32)
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def together(tensor: Tensor) -> Tensor:
    """A tensor as a whole on the CPU; of a sharded one every process has to ask at the same time."""
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.detach().cpu().contiguous()


def apart(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is held: on its device and, if that is sharded, this process's share of it."""
    tensor = tensor.to(like.device)
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def anywhere(happened: bool, accelerator) -> bool:
    """Whether something happened in any process; all have to ask."""
    if accelerator.num_processes == 1:
        return happened
    count = torch.tensor([float(happened)], device=accelerator.device)
    return accelerator.reduce(count, reduction="sum").item() > 0
