"""Faster decoding on a CPU, where a layer with one token per row spends most of its time on moving data."""

from typing import Any

import torch
from torch import Tensor, nn

from prefloop.models._compat import has_onednn_bf16, onednn_linear, onednn_weight, use_attention

GROUPED_ATTENTION = "prefloop_grouped"  # name of this attention among those of transformers
# Options that do not change the result of attention, and `scaling`, which `grouped_attention` applies. It would
# silently ignore any other option, such as a cap on the scores or attention sinks.
KNOWN_OPTIONS = {"scaling", "dropout", "sliding_window", "is_causal", "position_ids", "cache_position", "use_cache"}
KNOWN_OPTIONS |= {"output_attentions", "output_hidden_states", "return_dict", "logits_to_keep"}


def optimize_for_cpu_decoding(model: nn.Module) -> None:
    """Make a model on a CPU use `grouped_attention`, if its layers allow it, and prepack its bfloat16 weights.

    The results are the same up to rounding. Afterwards the model can be neither trained nor saved. A model on an
    accelerator is not changed.
    """
    if next(model.parameters()).device.type != "cpu":
        return
    token = {"input_ids": torch.zeros((1, 1), dtype=torch.long)}
    use_attention(model, GROUPED_ATTENTION, grouped_attention, "eager_mask", is_plain_attention, token)
    for module in list(model.modules()) if has_onednn_bf16() else []:
        for name, layer in module.named_children():
            if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16:
                setattr(module, name, PrepackedLinear(layer))


def is_plain_attention(states: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether `grouped_attention` knows every option that a layer passes to its attention."""
    unknown = {name for name, value in options.items() if value is not None} - KNOWN_OPTIONS
    return not unknown and options.get("scaling") is not None


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Softmax attention with plain matrix products, which on a CPU is faster than the fused kernel for one query per
    row.

    The heads of a group are adjacent and share its keys and values. transformers' eager attention copies these for
    each head.

    Args:
        module (nn.Module): The attention layer that calls this function; not used.
        query (Tensor): [rows, heads, tokens, size].
        key (Tensor): [rows, groups, length, size].
        value (Tensor): [rows, groups, length, value size].
        attention_mask (Tensor | None): [rows, 1, tokens, length], added to the scores.
        scaling (float | None): Factor of the scores, by default 1 / sqrt(size).

    Returns:
        tuple[Tensor, None]: [rows, tokens, heads, value size], and no attention weights.
    """
    rows, heads, tokens, size = query.shape
    scaling = size**-0.5 if scaling is None else scaling
    scores = query.reshape(rows, key.shape[1], -1, size) @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = (scores.unflatten(2, (-1, tokens)) + attention_mask[:, :, None]).flatten(2, 3)
    output = torch.softmax(scores, dim=3) @ value
    return output.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None


class PrepackedLinear(nn.Module):
    """A linear layer that stores its weight in oneDNN's layout. A plain layer reorders its weight at each call."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = onednn_weight(layer.weight)
        self.bias = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, states: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return onednn_linear(states, self.weight, self.bias)
