"""What makes decoding quick on a CPU, where one token a row leaves a layer little work beside moving its operands."""

import torch
from torch import Tensor, nn

from prefloop.heads import trial

NAME = "prefloop_grouped"  # of this attention among those of transformers
# What an attention may be told beside its states and mask: none of it changes what it computes, but for the scale.
# Another argument, as a cap or a sink, is one that `grouped_attention` does not know.
KNOWN = {"scaling", "dropout", "sliding_window", "is_causal", "position_ids", "cache_position", "use_cache"}
KNOWN |= {"output_attentions", "output_hidden_states", "return_dict", "logits_to_keep"}


def quicken(model) -> None:
    """Let a model that decodes on a CPU attend by `grouped_attention`, if it can, and pack its bfloat16 weights.

    The model computes what it did but for rounding. It can be neither trained nor saved from then on.
    """
    if next(model.parameters()).device.type != "cpu":
        return
    attend_in_groups(model)
    for module in list(model.modules()) if packs() else []:
        for name, layer in module.named_children():
            if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16:
                setattr(module, name, Packed(layer))


def grouped_attention(module, query: Tensor, key: Tensor, value: Tensor, attention_mask, scaling: float, **_):
    """Softmax attention by plain matrix products, which on a CPU are faster than the fused kernel for one query a row.

    `query` is [rows, heads, tokens, size], `key` is [rows, groups, length, size] and `value` alike, of a size of its
    own; the mask is added to scores [rows, 1, tokens, length]; [rows, tokens, heads, value's size] comes out. The heads
    of a group lie one after the other and share its keys, which transformers' eager attention copies for each of them.
    """
    rows, heads, tokens, size = query.shape
    scores = query.reshape(rows, key.shape[1], -1, size) @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = (scores.unflatten(2, (-1, tokens)) + attention_mask[:, :, None]).flatten(2, 3)
    found = torch.softmax(scores, dim=3) @ value
    return found.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None


def attend_in_groups(model) -> None:
    """Let a model attend by `grouped_attention`, if every layer tells its attention what that knows and no more."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    config, told = model.config.get_text_config(), []

    def noting(module, query, key, value, attention_mask, **options):
        unknown = {name for name, given in options.items() if given is not None} - KNOWN
        told.append(not unknown and options.get("scaling") is not None)
        return grouped_attention(module, query, key, value, attention_mask, options.get("scaling") or 1.0)

    before = config._attn_implementation
    AttentionMaskInterface.register(NAME, eager_mask)
    AttentionInterface.register(NAME, noting)
    config._attn_implementation = NAME
    with trial():
        model(torch.zeros((1, 1), dtype=torch.long))
    AttentionInterface.register(NAME, grouped_attention)
    if told != [True] * config.num_hidden_layers:
        config._attn_implementation = before


def packs() -> bool:
    """Whether this PyTorch and processor have the matrix product that `Packed` asks for: oneDNN's, in bfloat16."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Packed(nn.Module):
    """A linear layer whose weight lies as oneDNN multiplies it; a plain one is brought into that order at each call."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        self.bias = layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, states: Tensor) -> Tensor:
        """[…, in_features] → […, out_features]."""
        return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
