"""Devices and dtypes of models."""

from typing import get_args

import torch

from prefloop.core.errors import InputError, first_line
from prefloop.core.gpus import visible_gpus
from prefloop.models._compat import has_fast_bf16
from prefloop.models.options import Dtype


def default_device() -> str:
    """`cuda` if this process can see a GPU, else `cpu`.

    Raises:
        InputError: torch cannot use a GPU that the process can see. On the CPU the stage would take many times as long.
    """
    if torch.cuda.is_available():
        return "cuda"
    if gpus := visible_gpus():
        reason = "no reason given"
        try:
            torch.cuda.init()  # only its error says why
        except (AssertionError, RuntimeError) as error:
            reason = first_line(error)
        raise InputError(
            f"GPU {', '.join(gpus)}: torch {torch.__version__} cannot use it ({reason}); install a newer driver or "
            "another build of torch (docs/cluster.md), or set PREFLOOP_DEVICE=cpu to run on the CPU"
        )
    return "cpu"


def use_plain_attention_kernels() -> None:
    """Switch off cuDNN's attention on GPUs.

    cuDNN builds a plan for every new size and stride of its operands, and almost every text has a new length. Reported
    times per plan are 0.04 to 1 s (pytorch/pytorch#191576, modelscope/FunASR#3704). torch prefers cuDNN on an H100.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def allow_tf32(device: str) -> None:
    """Use TF32 for float32 matrix products on a GPU: faster, with operands rounded to 10 bits.

    This is for models that score or embed texts. Policies keep full float32 on a GPU, too.
    """
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")


def resolve_dtype(name: str | None, device: str) -> torch.dtype:
    """The torch dtype for a name; `auto` is bfloat16 if the hardware multiplies it fast, else float32.

    None is `auto` on a GPU and float32 on a CPU.

    Raises:
        InputError: The name is not a `Dtype`.
    """
    if name is None:
        name = "auto" if device.startswith("cuda") else "float32"
    if name not in get_args(Dtype):
        raise InputError(f"dtype: {name!r} is not one of {', '.join(get_args(Dtype))}")
    if name != "auto":
        return getattr(torch, name)
    is_fast = torch.cuda.get_device_capability()[0] >= 8 if device.startswith("cuda") else has_fast_bf16()
    return torch.bfloat16 if is_fast else torch.float32
