"""Several processes in one training: whole or sharded models, and gathering what is distributed."""

import functools
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from prefloop.models._compat import model_layers, replace_forward
from prefloop.models.precision import keep_masters

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import KwargsHandler

TIMEOUT = timedelta(hours=1)  # for which processes wait for one that reads or writes a large model


def checkpoint_activations(model: nn.Module) -> None:
    """Make every layer recompute its activations in the backward pass (Chen et al. 2016, arXiv 1604.06174).

    transformers' own switch works in training mode only, in which the base model's dropout would be on.
    """
    from torch.utils.checkpoint import checkpoint

    for layer in model_layers(model):
        replace_forward(layer, functools.partial(checkpoint, layer.forward, use_reentrant=False))


def communication() -> "list[KwargsHandler]":
    """How an Accelerator's processes communicate: they wait long for one that reads or writes a large model."""
    from accelerate.utils import InitProcessGroupKwargs

    return [InitProcessGroupKwargs(timeout=TIMEOUT)]


def wrap_model(model: nn.Module, sharding: str, accelerator: "Accelerator", dtype: torch.dtype) -> nn.Module:
    """Put a model on this process's device, and make it compute in one dtype, trained parameters included.

    With `fsdp2` the model's parameters become shards (DTensors). A layer's are gathered while it computes, in the
    arithmetic's dtype, and gradients are summed in float32. The numbers are those of the first process, which sends
    them to the others.

    Args:
        model (nn.Module): The model to train; its trained parameters are float32. If `is_read_here` is false it needs
            no numbers, otherwise it is equal in all processes.
        sharding (str): `none` or `fsdp2`.
        accelerator (Accelerator): That of this process.
        dtype (torch.dtype): Of the arithmetic, and of frozen parameters.

    Returns:
        nn.Module: The same model.
    """
    if not has_shards(sharding, accelerator):
        keep_masters(model.to(accelerator.device), dtype)
        return model
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    use_dtypes_of_first(model)
    state = model.state_dict() if accelerator.is_main_process else {}
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    half = None if dtype == torch.float32 else dtype
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=None if half is None else torch.float32)
    for layer in model_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if not accelerator.is_main_process:
        model.to_empty(device=accelerator.device)
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    for buffer in model.buffers():  # also those that are in no state_dict, such as rotary frequencies
        torch.distributed.broadcast(buffer, src=0)
    return model


def has_shards(sharding: str, accelerator: "Accelerator") -> bool:
    """Whether `wrap_model` cuts a model into shards."""
    return sharding != "none" and accelerator.num_processes > 1


def is_read_here(sharding: str, accelerator: "Accelerator") -> bool:
    """Whether this process has to read the weights of a model for `wrap_model`; if it is sharded the first one does."""
    return accelerator.is_main_process or not has_shards(sharding, accelerator)


def use_dtypes_of_first(model: nn.Module) -> None:
    """Give parameters without numbers the dtypes that they have in the first process, whose loader chose them."""
    from accelerate.utils import broadcast_object_list

    (dtypes,) = broadcast_object_list([{name: parameter.dtype for name, parameter in model.named_parameters()}])
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's parameters are shards."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def device_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory; 0 for a CPU, whose processes share theirs."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def set_gradient_exchange(model: nn.Module, is_last: bool, device: torch.device) -> None:
    """Decide whether a sharded model's processes exchange gradients in the next backward pass.

    Once per step is enough, but until then every process keeps whole gradients in float32. If these take more than an
    eighth of its GPU's memory, gradients are exchanged after every micro-batch.

    Args:
        model (nn.Module): From `wrap_model`; without shards nothing changes.
        is_last (bool): The backward pass is the step's last one.
        device (torch.device): That of this process.
    """
    if not is_sharded(model):
        return
    whole = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    model.set_requires_gradient_sync(is_last or 8 * whole > device_memory(device))  # type: ignore[operator]


def sum_gradients(parameters: Sequence[nn.Parameter], accelerator: "Accelerator") -> None:
    """Add up whole gradients over all processes; every process has to call this with the same parameters.

    A process in which a parameter has no gradient, such as that of an expert that read no token, adds 0.
    """
    if accelerator.num_processes == 1:
        return
    exists = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=accelerator.device)
    works = []
    for parameter, count in zip(parameters, accelerator.reduce(exists, reduction="sum").tolist(), strict=True):
        if count:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            works.append(torch.distributed.all_reduce(parameter.grad, async_op=True))
    for work in works:
        work.wait()


def gather_full(tensor: Tensor, keep: bool = True) -> Tensor:
    """A whole tensor on the CPU. If it is sharded, every process has to call this at the same time.

    Args:
        tensor (Tensor): On any device.
        keep (bool): Whether this process needs it; otherwise it is sent to the others, and the result is empty.
    """
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.detach().cpu().contiguous() if keep else torch.empty(0)


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor on the device of `like`; if `like` is sharded, of this process's shard alone."""
    if not hasattr(like, "full_tensor"):
        return tensor.to(like.device, copy=True)
    from torch.distributed.tensor import DTensor, distribute_tensor

    like = cast(DTensor, like)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None).clone()


def gather_rows(rows: Tensor, accelerator: "Accelerator") -> Tensor:
    """Collect rows [local rows, columns] in the order of processes: [all rows, columns], float32, on the CPU.

    Processes may have different numbers of rows, also none.
    """
    local = rows.detach().float().cpu()
    if accelerator.num_processes == 1:
        return local
    from accelerate.utils import gather_object

    return torch.tensor(gather_object(local.tolist())).reshape(-1, rows.shape[1])


def true_anywhere(values: list[bool], accelerator: "Accelerator") -> list[bool]:
    """Whether each of the values is true in any process; every process has to call this."""
    if accelerator.num_processes == 1:
        return values
    counts = torch.tensor(values, dtype=torch.float32, device=accelerator.device)
    return (accelerator.reduce(counts, reduction="sum") > 0).tolist()
