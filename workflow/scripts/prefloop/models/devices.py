"""Where models run, and in which arithmetic."""

from typing import get_args

import torch

from prefloop.core.errors import InputError, first_line
from prefloop.core.gpus import visible_gpus
from prefloop.models._compat import has_fast_bf16
from prefloop.models.options import Dtype


def default_device() -> str:
    """`cuda` if this process can see a GPU, else `cpu`.

    Raises:
        InputError: It can see one, and torch cannot use it. On the CPU the stage would take many times as long.
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
    """Switch cuDNN's attention off. Models on a CPU do not use it.

    cuDNN builds a plan for every new size and stride of its operands, and lengths of texts are always new. Others
    have measured 0.04 to 1 s per plan (pytorch/pytorch#191576, modelscope/FunASR#3704). torch prefers cuDNN on an H100.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def allow_tf32(device: str) -> None:
    """Let float32 matrix products of a GPU round their operands to TF32's 10 bits, for which it has faster units.

    For models that score or embed texts. Policies are not rounded: their float32 is exact on a GPU as well.
    """
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")


def resolve_dtype(name: str | None, device: str) -> torch.dtype:
    """The dtype of a name; `auto` is bfloat16 where the hardware multiplies it fast, else float32.

    None is `auto` on a GPU and float32 on a CPU.

    Raises:
        InputError: The name is no `Dtype`.
    """
    if name is None:
        name = "auto" if device.startswith("cuda") else "float32"
    if name not in get_args(Dtype):
        raise InputError(f"dtype: {name!r} is not one of {', '.join(get_args(Dtype))}")
    if name != "auto":
        return getattr(torch, name)
    is_fast = torch.cuda.get_device_capability()[0] >= 8 if device.startswith("cuda") else has_fast_bf16()
    return torch.bfloat16 if is_fast else torch.float32
