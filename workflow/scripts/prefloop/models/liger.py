"""Liger's kernels for a policy on a GPU (Hsu et al. 2024, arXiv 2410.10989): RMSNorm, RoPE and the gated MLP.

Liger's losses are not used, because they need logits, which `chunked_head` does not keep. The kernels round differently
from PyTorch's operations, so either all stages that compute a policy use them or none does.
"""

import importlib.util
from pathlib import Path
from typing import Any

from prefloop.core.errors import InputError

LIGER: set[Path] = set()  # what `use_liger` was called with in this process


def use_liger(manifest: Path) -> None:
    """Make policies of a manifest's model use Liger's kernels in this process. Only programs call this."""
    LIGER.add(Path(manifest).resolve())


def uses_liger(manifest: Path) -> bool:
    """Whether policies of a manifest's model use Liger's kernels."""
    return Path(manifest).resolve() in LIGER


def with_liger(model: Any, manifest: Path) -> Any:
    """Give a loaded model Liger's kernels, if `use_liger` was called for its manifest.

    The names, shapes and values of its weights do not change. The rotary positions of all models of its class in this
    process use the kernels from then on.

    Args:
        model (PreTrainedModel): Without adapters; changed in place.
        manifest (Path): Manifest of its base model.

    Raises:
        InputError: There is no GPU, no package liger-kernel, or no kernel for models of this type.
    """
    if not uses_liger(manifest):
        return model
    from prefloop.models._compat import apply_liger, liger_model_types
    from prefloop.models.devices import default_device

    if (device := default_device()) != "cuda":
        raise InputError(f"policy.use_liger_kernel: true needs a GPU, and this stage runs on {device}; set it to false")
    if importlib.util.find_spec("liger_kernel") is None:
        raise InputError("policy.use_liger_kernel: true needs the package liger-kernel; install it, or set it to false")
    if (kind := model.config.model_type) not in liger_model_types():
        raise InputError(f"policy.use_liger_kernel: Liger has no kernels for models of type {kind}; set it to false")
    apply_liger(model)
    return model
