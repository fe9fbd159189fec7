"""Training with several processes: replicated or sharded models, and collecting tensors and values from processes."""

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

TIMEOUT = timedelta(hours=1)  # how long processes wait for one that reads or writes a large model


def checkpoint_activations(model: nn.Module) -> None:
    """Make every layer recompute its activations in the backward pass (Chen et al. 2016, arXiv 1604.06174).

    transformers' own switch works only in training mode, which would also switch on the base model's dropout.
    """
    from torch.utils.checkpoint import checkpoint

    for layer in model_layers(model):
        replace_forward(layer, functools.partial(checkpoint, layer.forward, use_reentrant=False))


def communication() -> "list[KwargsHandler]":
    """Options of an Accelerator: a long timeout, because processes wait for one that reads or writes a large model."""
    from accelerate.utils import InitProcessGroupKwargs

    return [InitProcessGroupKwargs(timeout=TIMEOUT)]


def wrap_model(model: nn.Module, sharding: str, accelerator: "Accelerator", dtype: torch.dtype) -> nn.Module:
    """Move a model to this process's device, and make it compute in one dtype, including trained parameters.

    With `fsdp2` the model's parameters become shards (DTensors). A layer's parameters are gathered in the arithmetic's
    dtype while it computes, and gradients are summed in float32. The first process sends its weights to the others.

    Args:
        model (nn.Module): The model to train; its trained parameters are float32. Its weights need not be loaded if
            `is_read_here` is false; without shards they are equal in all processes.
        sharding (str): `none` or `fsdp2`.
        accelerator (Accelerator): This process's accelerator.
        dtype (torch.dtype): The dtype of the arithmetic and of frozen parameters.

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
    """Whether `wrap_model` shards a model."""
    return sharding != "none" and accelerator.num_processes > 1


def is_read_here(sharding: str, accelerator: "Accelerator") -> bool:
    """Whether this process has to read a model's weights for `wrap_model`; only the first one reads a sharded model."""
    return accelerator.is_main_process or not has_shards(sharding, accelerator)


def use_dtypes_of_first(model: nn.Module) -> None:
    """Give parameters that were not loaded the dtypes that the loader chose in the first process."""
    from accelerate.utils import broadcast_object_list

    (dtypes,) = broadcast_object_list([{name: parameter.dtype for name, parameter in model.named_parameters()}])
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's parameters are shards."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def device_memory(device: torch.device) -> int:
    """The size of a GPU's memory in bytes; 0 for a CPU, whose processes share their memory."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def set_gradient_exchange(model: nn.Module, is_last: bool, device: torch.device) -> None:
    """Decide whether a sharded model's processes exchange gradients in the next backward pass.

    Once per step is enough, but until then every process keeps unsharded gradients in float32. If these take more than
    an eighth of its GPU's memory, gradients are exchanged after every micro-batch.

    Args:
        model (nn.Module): From `wrap_model`; without shards nothing changes.
        is_last (bool): Whether the next backward pass is the last one of the step.
        device (torch.device): This process's device.
    """
    if not is_sharded(model):
        return
    whole = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    model.set_requires_gradient_sync(is_last or 8 * whole > device_memory(device))  # type: ignore[operator]


def sum_gradients(parameters: Sequence[nn.Parameter], accelerator: "Accelerator") -> None:
    """Sum unsharded gradients over all processes; every process has to call this with the same parameters.

    A missing gradient counts as 0, such as that of an expert that received no token in a process.
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
    """The full tensor on the CPU. If it is sharded, every process has to call this at the same time.

    Args:
        tensor (Tensor): On any device.
        keep (bool): Whether this process needs the tensor; otherwise the result is empty.
    """
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.detach().cpu().contiguous() if keep else torch.empty(0)


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Copy a full tensor to the device of `like`; only this process's shard if `like` is sharded."""
    if not hasattr(like, "full_tensor"):
        return tensor.to(like.device, copy=True)
    from torch.distributed.tensor import DTensor, distribute_tensor

    like = cast(DTensor, like)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None).clone()


def gather_rows(rows: Tensor, accelerator: "Accelerator") -> Tensor:
    """Collect rows [local rows, columns] in the order of processes: [all rows, columns], float32, on the CPU.

    Processes may have different numbers of rows, including none.
    """
    local = rows.detach().float().cpu()
    if accelerator.num_processes == 1:
        return local
    from accelerate.utils import gather_object

    return torch.tensor(gather_object(local.tolist())).reshape(-1, rows.shape[1])


def true_anywhere(values: list[bool], accelerator: "Accelerator") -> list[bool]:
    """For each value, whether it is true in any process; every process has to call this."""
    if accelerator.num_processes == 1:
        return values
    counts = torch.tensor(values, dtype=torch.float32, device=accelerator.device)
    return (accelerator.reduce(counts, reduction="sum") > 0).tolist()
