"""Base weights in 4 bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314), which bitsandbytes keeps on a GPU.

Only base weights under trained adapters are quantized. Every stage that computes a policy's log-probabilities reads
them through `prefloop.models.loading`, with the same setting, so scoring and training multiply the same weights.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prefloop.core.errors import InputError
from prefloop.models.options import Quantization

if TYPE_CHECKING:
    import torch

QUANTIZED: dict[Path, str] = {}  # what `quantize` was called with in this process


def quantize(manifest: Path, kind: str) -> None:
    """Make this process quantize the weights of a manifest's model when it loads them.

    Only programs call this, for the base model of the policies.

    Raises:
        InputError: The kind is not a `Quantization`.
    """
    if kind not in get_args(Quantization):
        raise InputError(f"policy.quantization: {kind!r} is not one of {', '.join(get_args(Quantization))}")
    QUANTIZED[Path(manifest).resolve()] = kind


def quantization_of(manifest: Path) -> str | None:
    """The quantization of a manifest's model when it is loaded; None if its weights are not quantized."""
    return QUANTIZED.get(Path(manifest).resolve())


def quantized_loading(manifest: Path, dtype: "torch.dtype") -> dict[str, Any]:
    """Additional arguments of `from_pretrained` for a manifest's model; empty if it is not quantized.

    All linear layers except the language-model head are quantized. Their products are computed in `dtype`, and weights
    are dequantized for each product.

    Args:
        manifest (Path): Manifest of the model.
        dtype (torch.dtype): The dtype of the arithmetic and of all other weights.

    Raises:
        InputError: There is no GPU, or bitsandbytes is not installed.
    """
    if (kind := quantization_of(manifest)) is None:
        return {}
    from transformers import BitsAndBytesConfig

    from prefloop.models.devices import default_device

    if (device := default_device()) != "cuda":
        raise InputError(f"policy.quantization: {kind} needs a GPU, and this stage runs on {device}; set it to null")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"policy.quantization: {kind} needs the package bitsandbytes; install it next to torch, or set it to null"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}
