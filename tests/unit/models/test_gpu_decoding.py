"""Decoding as on a GPU, run on a CPU: the logits are equal, and single tokens need no copies of keys and values."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig
from transformers.integrations import sdpa_attention

from decoding_steps import decoded
from prefloop.models.gpu_decoding import DECODING_ATTENTION, attend_by_groups, optimize_for_gpu_decoding
from prefloop.models.loading import load_base, load_policy
from tiny import ARCHITECTURES

SIZES = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_model_decodes_as_before(architecture, dtype, close, manifests):
    model = load_base(manifests[architecture], dtype)[0].eval()
    plain = decoded(model, preallocates=False)
    assert attend_by_groups(model)
    assert model.config._attn_implementation == DECODING_ATTENTION
    assert (decoded(model, preallocates=True) - plain).abs().max() <= close * plain.abs().max()


@torch.no_grad()
def test_policy_with_an_adapter_decodes_as_before(manifests, trained):
    """For mixtures of two models, the adapter is not merged."""
    model = load_policy(manifests["llama"], trained("lora"), torch.float32, "cpu")[0]
    plain = decoded(model, preallocates=False)
    assert attend_by_groups(model)
    assert torch.allclose(decoded(model, preallocates=True), plain, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "can"),
    [(MistralConfig(**GROUPED, sliding_window=4), True), (Gemma2Config(**GROUPED, attn_logit_softcapping=0.02), False)],
)
def test_sliding_windows_and_caps(config, can):
    """A model keeps its own attention if its layers pass an option that ours does not support."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    plain = decoded(model, preallocates=False)
    assert attend_by_groups(model) == can
    assert torch.allclose(decoded(model, preallocates=True), plain, atol=1e-5)


@torch.no_grad()
def test_keys_are_copied_for_prompts_only(monkeypatch, manifests):
    """If there is a mask, as for padded prompts, transformers copies keys and values for every head."""
    copied, repeat = [], sdpa_attention.repeat_kv
    monkeypatch.setattr(sdpa_attention, "repeat_kv", lambda states, n: copied.append(n) or repeat(states, n))
    model = load_base(manifests["llama"], torch.float32)[0].eval()
    layers, steps = model.config.num_hidden_layers, 4
    decoded(model, preallocates=True)
    assert len(copied) == 2 * layers * steps
    assert attend_by_groups(model)
    copied.clear()
    decoded(model, preallocates=True)
    assert len(copied) == 2 * layers


def test_model_on_a_cpu_is_not_changed(manifests):
    model = load_base(manifests["llama"], torch.float32)[0]
    optimize_for_gpu_decoding(model)
    assert model.config._attn_implementation == "sdpa"
