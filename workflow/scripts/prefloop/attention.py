"""Attention over sequences that lie end to end, without padding between them; all else in a layer sees tokens only."""

from collections.abc import Sequence as Listed

import torch
from torch import Tensor

from prefloop.heads import once_a_model

NAME = "prefloop"  # of this attention among those of transformers
Sequences = Listed[tuple[int, Tensor | None]]  # the length of each, and what each of its tokens sees; None: all before


def attend(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask, sequences: Sequences | None = None, **options
):
    """transformers' scaled dot-product attention, and where `sequences` are given one of each after the other.

    Then query, key and value are [1, heads, tokens, size], what comes out is [1, tokens, heads, size], and a mask is
    bool [1, 1, length, length]. Splitting takes no copy, and no sequence pays for the longest one's square.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if sequences is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    parts = zip(
        *(states.split([length for length, _ in sequences], dim=2) for states in (query, key, value)), strict=True
    )
    found = [
        sdpa_attention_forward(module, *states, mask, **options)[0]
        for states, (_, mask) in zip(parts, sequences, strict=True)
    ]
    return torch.cat(found, dim=1), None


@once_a_model
def reads_packed(model) -> bool:
    """Whether a model can read sequences end to end, several responses behind one prompt; if so, it does from now on.

    It can if it is transformers' own code, a token's place comes from `position_ids` alone and every layer takes any
    mask of what it may see. Not so are sliding windows, recurrent layers, and attention that is biased by distance.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    inner = getattr(model, "module", model)
    config = inner.config.get_text_config()
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    written = next(c.__module__ for c in type(inner).__mro__ if not c.__module__.startswith("torch."))
    can = (
        written.startswith("transformers.models.")
        and config._attn_implementation in ("sdpa", NAME)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and any(name.rsplit(".", 1)[-1] in ("rotary_emb", "wpe") for name, _ in inner.named_modules())
    )
    if can:
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        config._attn_implementation = NAME
    return can
