"""Decoding on a CPU: optimized models and caches give the same results as those of transformers."""

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

from decoding_steps import decoded
from prefloop.models._compat import has_onednn_bf16
from prefloop.models.cpu_decoding import (
    GROUPED_ATTENTION,
    PrepackedLinear,
    grouped_attention,
    optimize_for_cpu_decoding,
)
from prefloop.models.kv_cache import MIN_CAPACITY, PreallocatedLayer, preallocate
from prefloop.models.loading import load_base
from tiny import ARCHITECTURES

SIZES = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
LATENT = {"first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8}
LATENT |= {"qk_nope_head_dim": 8, "v_head_dim": 12}
FAMILIES = {
    "sliding windows": (MistralConfig(**GROUPED, sliding_window=4), GROUPED_ATTENTION),
    "some sliding windows": (Gemma3TextConfig(**GROUPED, sliding_window=4), GROUPED_ATTENTION),
    "scaled otherwise": (GraniteConfig(**SIZES, num_key_value_heads=2, attention_multiplier=0.5), GROUPED_ATTENTION),
    "latent": (DeepseekV3Config(**SIZES, num_key_value_heads=4, **LATENT, **EXPERTS), GROUPED_ATTENTION),
    "caps": (Gemma2Config(**GROUPED, attn_logit_softcapping=0.02), "eager"),
    "sinks": (GptOssConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2), "eager"),
    "distances": (BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=90), "eager"),
}


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_optimized_model_decodes_as_before(architecture, dtype, close, manifests):
    model = load_base(manifests[architecture], dtype, "eager")[0].eval()
    plain = decoded(model, preallocates=False)
    optimize_for_cpu_decoding(model)
    assert model.config._attn_implementation == GROUPED_ATTENTION
    found = decoded(model, preallocates=True)
    assert (found - plain).abs().max() <= close * plain.abs().max()
    assert found.std() > 0.1, "nearly equal logits would hide errors"


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_attention_matches_scaled_dot_product_attention(groups):
    """Rows have several tokens, the mask hides some earlier tokens, and values and keys have different sizes."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 5, 8), torch.randn(3, groups, 9, 8), torch.randn(3, groups, 9, 6)
    mask = torch.where(torch.rand(3, 1, 5, 9) < 0.3, -1e9, 0.0)
    found, _ = grouped_attention(None, query, key, value, mask, 0.3)
    expected = scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-6)


@pytest.mark.skipif(not has_onednn_bf16(), reason="this processor cannot multiply bfloat16")
def test_only_bfloat16_linear_layers_are_prepacked(manifests):
    model = load_base(manifests["llama"], torch.bfloat16, "eager")[0].eval()
    linear = sum(type(module) is torch.nn.Linear for module in model.modules())
    optimize_for_cpu_decoding(model)
    assert sum(type(module) is PrepackedLinear for module in model.modules()) == linear > 7
    whole = load_base(manifests["llama"], torch.float32, "eager")[0].eval()
    optimize_for_cpu_decoding(whole)
    assert not any(type(module) is PrepackedLinear for module in whole.modules())


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_families_decode_as_before(name):
    """Models with caps (Gemma 2), sinks (GPT-OSS) or distances (BLOOM) keep their own attention."""
    torch.manual_seed(0)
    config, attention = FAMILIES[name]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    plain = decoded(model, preallocates=False)
    optimize_for_cpu_decoding(model)
    assert model.config._attn_implementation == attention
    assert torch.allclose(decoded(model, preallocates=True), plain, atol=1e-5)


def states(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of 3 rows and 2 groups with different sizes, as in latent attention."""
    return torch.randn(3, 2, tokens, 8), torch.randn(3, 2, tokens, 5)


def test_preallocated_cache_matches_growing_one():
    torch.manual_seed(0)
    growing, preallocated = DynamicCache(), DynamicCache()
    first = states(4)
    for cache in (growing, preallocated):
        cache.update(*first, 0)
    preallocate(preallocated)
    layer, moved = preallocated.layers[0], []
    assert type(layer) is PreallocatedLayer
    for _ in range(2 * MIN_CAPACITY):
        address, more = layer.buffers[0].data_ptr(), states(1)
        for expected, actual in zip(growing.update(*more, 0), preallocated.update(*more, 0), strict=True):
            assert torch.equal(actual, expected)
        moved.append(layer.buffers[0].data_ptr() != address)
    assert sum(moved) == 1, "capacity for 64 tokens, extended once by 64"
    assert moved[MIN_CAPACITY]
    assert preallocated.get_seq_length() == growing.get_seq_length() == 4 + 2 * MIN_CAPACITY
    for cache in (growing, preallocated):
        cache.batch_select_indices(torch.tensor([2, 0]))
    assert torch.equal(growing.layers[0].keys, preallocated.layers[0].keys)
    assert torch.equal(growing.layers[0].values, preallocated.layers[0].values)
