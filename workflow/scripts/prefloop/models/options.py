"""Settings of models, in a module of their own so that reading a config does not import torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from prefloop.core.metadata import Unique, Unit

Dtype = Literal["auto", "bfloat16", "float32"]  # auto: bfloat16 where the hardware multiplies it fast, else float32


Quantization = Literal["nf4"]  # of base weights; see models.quantization


@dataclass
class Lora:
    """Low-rank adapters on linear layers (Hu et al. 2021)."""

    r: Annotated[int, Ge(1), Unit("rank")] = 16
    """Rank of the adapters."""
    alpha: Annotated[float, Gt(0), Unit("pure number")] = 32.0
    """Scale: the output of an adapter is multiplied by alpha / r, or with rslora by alpha / sqrt(r)."""
    dropout: Annotated[float, Ge(0), Lt(1), Unit("probability")] = 0.0
    """Dropout on the input of an adapter during training."""
    target_modules: Annotated[tuple[str, ...], Unique()] = ()
    """Linear layers that get adapters, by their names or ends of names, such as [q_proj, v_proj]; an empty list means
    all but the language-model head."""
    rslora: bool = False
    """Scale adapters by alpha / sqrt(r), so that large ranks learn as fast as small ones (rank-stabilized LoRA, arXiv
    2312.03732)."""
    dora: bool = False
    """Train the norm of each row of a layer's weights, too, while the adapter changes its direction (DoRA, arXiv
    2402.09353). Slower."""


@dataclass
class RuntimeConfig:
    """Runtime options of a training. They do not affect the trained weights beyond rounding."""

    processes: Annotated[int | None, Ge(1), Unit("processes")] = None
    """Processes that train together, one per GPU or CPU; if null, one per GPU of the job."""
    sharding: Literal["none", "fsdp2"] = "none"
    """Keep the whole model in every process, or shard weights, gradients and optimizer state (PyTorch's FSDP2)."""
    gradient_checkpointing: bool = False
    """Recompute layers in the backward pass instead of storing their activations: less memory, a third more work."""
    save_every: Annotated[int, Ge(1), Unit("optimizer steps")] = 50
    """Steps between two checkpoints from which an interrupted training resumes."""
    save_every_minutes: Annotated[float | None, Gt(0), Unit("minutes")] = None
    """Minutes between two checkpoints, whatever the number of steps; null for `save_every`. Large models need it: a
    checkpoint of all parameters takes 12 bytes per parameter."""
