"""The saved state of a sharded model: a folder in which each process writes its shards as a safetensors file.

torch.distributed.checkpoint writes and reads the files, so that the number of processes may change between writing and
reading, and no process needs memory for more than its shards. Only its safetensors format is used, because the index of
its other formats can run code when it is read.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.core.errors import InputError
from prefloop.core.files import sync_folder


def write_shards(folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Write parameters and their optimizer state; every process has to call this. Afterwards all files are complete.

    Args:
        folder (Path): A new folder.
        parameters (dict): Sharded parameters by name.
        optimizer (torch.optim.Optimizer): The optimizer of the parameters.
    """
    from torch.distributed import checkpoint

    tensors = {tensor_key(name): parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        tensors |= {tensor_key(name, key): value for key, value in optimizer.state[parameter].items()}
    checkpoint.save(tensors, storage_writer=checkpoint.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    sync_folder(folder)


def read_shards(folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Read what `write_shards` wrote into parameters and optimizer, which may be unsharded or sharded differently.

    Raises:
        InputError: A file is missing or damaged.
    """
    from torch.distributed import checkpoint

    reader = checkpoint.HuggingFaceStorageReader(str(folder))
    is_fused = bool(optimizer.defaults.get("fused"))
    tensors: dict[str, Tensor] = {tensor_key(name): parameter.detach() for name, parameter in parameters.items()}
    try:
        saved: dict[str, Any] = reader.read_metadata().state_dict_metadata
        for name, parameter in parameters.items():
            for key in (
                key.removeprefix(tensor_key(name, "")) for key in saved if key.startswith(tensor_key(name, ""))
            ):
                optimizer.state[parameter][key] = empty_state(saved[tensor_key(name, key)].size, parameter, is_fused)
                tensors[tensor_key(name, key)] = optimizer.state[parameter][key]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # with one process
            checkpoint.load(tensors, storage_reader=reader, no_dist=not torch.distributed.is_initialized())
    except (Exception, checkpoint.CheckpointException) as error:
        problem = f"not readable ({type(error).__name__}); delete {folder.parent} to start the training again"
        raise InputError(f"{folder}: {problem}") from error


def empty_state(size: torch.Size, parameter: nn.Parameter, is_fused: bool) -> Tensor:
    """An empty value of a parameter's optimizer state: its step counter, or a tensor of its shape.

    Fused AdamW expects the counter on the parameter's device, other optimizers on the CPU.
    """
    if len(size) == 0:
        return torch.zeros((), device=parameter.device if is_fused else "cpu")
    return torch.zeros_like(parameter, requires_grad=False)


def tensor_key(parameter: str, state: str | None = None) -> str:
    """The name of a parameter's tensor in the files, or of a tensor in its optimizer state."""
    return f"weights/{parameter}" if state is None else f"optimizer/{parameter}/{state}"
