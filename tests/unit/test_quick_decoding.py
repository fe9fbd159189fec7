"""Decoding on a CPU: quick models and caches compute what transformers' own do."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DeepseekV3Config,
    DynamicCache,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    GraniteConfig,
    MistralConfig,
)

from prefloop.batching import positions_of
from prefloop.caches import SPARE, RoomyLayer, make_room
from prefloop.models import load_base
from prefloop.quick_decoding import NAME, Packed, grouped_attention, packs, quicken
from tiny import ARCHITECTURES

IDS = torch.tensor([[2, 2, 0, 7, 9, 12], [0, 30, 31, 8, 40, 41]])  # the first with two tokens of padding
MASK = (IDS != 2).long()
STEPS = torch.tensor([[5, 6, 44], [17, 50, 3]])
SIZES = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
FAMILIES = {
    "sliding windows": (MistralConfig(**GROUPED, sliding_window=4), NAME),
    "some sliding windows": (Gemma3TextConfig(**GROUPED, sliding_window=4), NAME),
    "scaled otherwise": (GraniteConfig(**SIZES, num_key_value_heads=2, attention_multiplier=0.5), NAME),
    "latent": (DeepseekV3Config(**SIZES, num_key_value_heads=4, **LATENT, **EXPERTS, first_k_dense_replace=1), NAME),
    "caps": (Gemma2Config(**GROUPED, attn_logit_softcapping=0.02), "eager"),
    "sinks": (GptOssConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2), "eager"),
    "distances": (BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=90), "eager"),
}


def decoded(model, room: bool) -> torch.Tensor:
    """Logits [rows, 4, vocabulary] after two prompts and after each of three tokens more, the last after a swap of the
    rows, which are swapped back."""
    mask, found = MASK, []
    step = model(input_ids=IDS, attention_mask=mask, position_ids=positions_of(mask), use_cache=True)
    cache = step.past_key_values
    if room:
        make_room(cache)
    for tokens in STEPS.T:
        found.append(step.logits[:, -1])
        mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
        if len(found) == 3:
            swap = torch.tensor([1, 0])
            cache.batch_select_indices(swap)
            mask, tokens = mask[swap], tokens[swap]
        more = {"attention_mask": mask, "position_ids": positions_of(mask)[:, -1:], "past_key_values": cache}
        step = model(input_ids=tokens[:, None], **more, use_cache=True)
    return torch.stack([*found, step.logits[swap, -1]], dim=1).float()


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_a_quick_model_decodes_as_it_did(architecture, dtype, close, manifests):
    model = load_base(manifests[architecture], dtype, "eager")[0].eval()
    plain = decoded(model, room=False)
    quicken(model)
    assert model.config._attn_implementation == NAME
    found = decoded(model, room=True)
    assert (found - plain).abs().max() <= close * plain.abs().max()
    assert found.std() > 0.1, "logits that could not be told apart would show nothing"


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_attention_is_scaled_dot_product_attention(groups):
    """Several tokens a row, a mask that hides some of what is before, and values of another size than keys."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 5, 8), torch.randn(3, groups, 9, 8), torch.randn(3, groups, 9, 6)
    mask = torch.where(torch.rand(3, 1, 5, 9) < 0.3, -1e9, 0.0)
    found, _ = grouped_attention(None, query, key, value, mask, 0.3)
    expected = scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-6)


@pytest.mark.skipif(not packs(), reason="this processor multiplies no bfloat16")
def test_linear_layers_in_bfloat16_are_packed_and_no_others(manifests):
    model = load_base(manifests["llama"], torch.bfloat16, "eager")[0].eval()
    linear = sum(type(module) is torch.nn.Linear for module in model.modules())
    quicken(model)
    assert sum(type(module) is Packed for module in model.modules()) == linear > 7
    whole = load_base(manifests["llama"], torch.float32, "eager")[0].eval()
    quicken(whole)
    assert not any(type(module) is Packed for module in whole.modules())


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_families_decode_as_they_did_and_those_with_an_attention_of_their_own_keep_it(name):
    """Caps (Gemma 2), sinks (GPT-OSS) and distances (BLOOM) are what a plain attention would leave out."""
    torch.manual_seed(0)
    config, attention = FAMILIES[name]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    plain = decoded(model, room=False)
    quicken(model)
    assert model.config._attn_implementation == attention
    assert torch.allclose(decoded(model, room=True), plain, atol=1e-5)


def states(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of 3 rows and 2 groups, of sizes that differ, as those of latent attention do."""
    return torch.randn(3, 2, tokens, 8), torch.randn(3, 2, tokens, 5)


def test_a_cache_with_room_holds_what_a_growing_one_does():
    torch.manual_seed(0)
    growing, roomy = DynamicCache(), DynamicCache()
    first = states(4)
    for cache in (growing, roomy):
        cache.update(*first, 0)
    make_room(roomy)
    layer, moved = roomy.layers[0], []
    assert type(layer) is RoomyLayer
    for _ in range(2 * SPARE):
        place, more = layer.room[0].data_ptr(), states(1)
        for one, other in zip(growing.update(*more, 0), roomy.update(*more, 0), strict=True):
            assert torch.equal(one, other)
        moved.append(layer.room[0].data_ptr() != place)
    assert sum(moved) == 1, "room for 64 tokens is made, and for 64 more when it is full"
    assert moved[SPARE]
    assert roomy.get_seq_length() == growing.get_seq_length() == 4 + 2 * SPARE
    for cache in (growing, roomy):
        cache.batch_select_indices(torch.tensor([2, 0]))
    assert torch.equal(growing.layers[0].keys, roomy.layers[0].keys)
    assert torch.equal(growing.layers[0].values, roomy.layers[0].values)
