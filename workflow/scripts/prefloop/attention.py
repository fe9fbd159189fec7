"""Attention over sequences that lie end to end, without padding between them; all else in a layer sees tokens only."""

import torch
from torch import Tensor

from prefloop.heads import once_a_model

NAME = "prefloop"  # of this attention among those of transformers


class Pad(torch.autograd.Function):
    """Tokens [tokens, …] put into their cells of [rows·width, …], zeros between them; its gradient is `Unpad`."""

    @staticmethod
    def forward(ctx, tokens: Tensor, cells: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(cells)
        padded = tokens.new_zeros(size, *tokens.shape[1:])
        padded[cells] = tokens
        return padded

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (cells,) = ctx.saved_tensors
        return grad[cells], None, None


class Unpad(torch.autograd.Function):
    """The cells [tokens] of [rows·width, …]; each is taken once, so that the gradient is put back and not added."""

    @staticmethod
    def forward(ctx, padded: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(cells)
        ctx.size = len(padded)
        return padded[cells]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (cells,) = ctx.saved_tensors
        padded = grad.new_zeros(ctx.size, *grad.shape[1:])
        padded[cells] = grad
        return padded, None


def attend(module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, cells=None, **options):
    """transformers' scaled dot-product attention, and where `cells` is given that of sequences end to end.

    Then query, key and value are [1, heads, tokens, size], `attention_mask` is bool [rows, 1, width, width] and
    token i lies in cell cells[i] of its rows·width; what comes out is [1, tokens, heads, size].
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if cells is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows, width = attention_mask.shape[0], attention_mask.shape[-1]

    def apart(states: Tensor) -> Tensor:
        return Pad.apply(states[0].transpose(0, 1), cells, rows * width).unflatten(0, (rows, width)).transpose(1, 2)

    found, _ = sdpa_attention_forward(module, apart(query), apart(key), apart(value), attention_mask, **options)
    return Unpad.apply(found.flatten(0, 1), cells)[None], None


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
