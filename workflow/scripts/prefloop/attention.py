"""Attention over sequences that lie end to end, without padding between them; all else in a layer sees tokens only."""

import contextlib
import inspect
from collections.abc import Sequence as Listed

import torch
from torch import Tensor

from prefloop.heads import once_a_model, trial

NAME = "prefloop"  # of this attention among those of transformers
Sequences = Listed[tuple[int, Tensor | None]]  # the length of each, and what each of its tokens sees; None: all before


def attend(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask, sequences: Sequences | None = None, **options
):
    """transformers' scaled dot-product attention, and where `sequences` are given one of each after the other.

    Then query, key and value are [1, heads, tokens, size], what comes out is [1, tokens, heads, size], and a mask is
    bool [1, 1, length, length]. Splitting takes no copy, and no sequence pays for the longest one's square. On a CPU
    bfloat16 is attended in float32: the backward pass takes half as long there (benchmarks/RESULTS.md, Training).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if sequences is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths, device, dtype = [length for length, _ in sequences], query.device.type, query.dtype
    in_float = device == "cpu"
    if in_float:
        query, key, value = query.float(), key.float(), value.float()
    parts = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    with torch.autocast(device, enabled=False) if in_float else contextlib.nullcontext():
        found = [
            sdpa_attention_forward(module, *states, mask, **options)[0]
            for states, (_, mask) in zip(parts, sequences, strict=True)
        ]
    return torch.cat(found, dim=1).to(dtype), None


@once_a_model
def reads_packed(model) -> bool:
    """Whether a model can read sequences end to end, several responses behind one prompt; if so, it does from now on.

    It can if it is transformers' own code, a token's place comes from `position_ids` alone and every layer takes any
    mask of what it may see. Not so are sliding windows, recurrent layers, and attention that is biased by distance.
    That every layer is told of the sequences is tried out, as some pass on nothing that they do not know.
    """
    inner = getattr(model, "module", model)
    config = inner.config.get_text_config()
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    written = next(c.__module__ for c in type(inner).__mro__ if not c.__module__.startswith("torch."))
    return (
        written.startswith("transformers.models.")
        and config._attn_implementation in ("sdpa", NAME)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and any(name.rsplit(".", 1)[-1] in ("rotary_emb", "wpe") for name, _ in inner.named_modules())
        and any(one.kind is one.VAR_KEYWORD for one in inspect.signature(inner.forward).parameters.values())
        and attends_here(model, config)
    )


def attends_here(model, config) -> bool:
    """Let a model's layers attend by `attend`, if all of them are told of the sequences; else leave it as it was."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    told, before = [], config._attn_implementation

    def noting(*states, sequences: Sequences | None = None, **options):
        told.append(sequences is not None)
        return attend(*states, sequences=sequences, **options)

    AttentionMaskInterface.register(NAME, sdpa_mask)
    AttentionInterface.register(NAME, noting)
    config._attn_implementation = NAME
    device = next(model.parameters()).device
    with trial():
        model(**packed_inputs([0, 0], [0, 0], [(1, None), (1, None)], device))
    AttentionInterface.register(NAME, attend)
    if told == [True] * config.num_hidden_layers:
        return True
    config._attn_implementation = before
    return False


def packed_inputs(ids: list[int], positions: list[int], sequences: Sequences, device: torch.device) -> dict:
    """What a model that `reads_packed` is called with: token ids and their places in the conversation, end to end."""
    return {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.tensor([positions], device=device),
        "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device),  # any, or one would be made
        "sequences": sequences,
        "use_cache": False,
    }
