"""Parameter counts: copies of weights count once, and idle experts are not active parameters."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GraniteMoeConfig,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

import tiny
from prefloop.core.errors import InputError
from prefloop.core.files import read_json
from prefloop.models.fetch import fetch
from prefloop.models.loading import load_base
from prefloop.models.manifests import parameter_count
from prefloop.models.weight_files import count_parameters


def saved(folder: Path, config: PretrainedConfig, **options) -> PreTrainedModel:
    """Write a randomly initialized causal language model and a tokenizer to `folder`."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder, **options)
    tiny.tokenizer().save_pretrained(folder)
    return model


def manifest_of(source: Path, folder: Path) -> dict:
    """Fetch a folder; return the content of its manifest."""
    fetch(str(source), folder)
    return read_json(folder / "manifest.json")


def test_copy_of_the_weights_is_left_out(model_folders, tmp_path):
    """A repository with shards and consolidated.safetensors is loaded and counted from its shards."""
    model = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    model.save_pretrained(tmp_path / "source", max_shard_size="40KB")
    tiny.tokenizer().save_pretrained(tmp_path / "source")
    shards = {path.name for path in (tmp_path / "source").glob("model-*.safetensors")}
    assert len(shards) > 1
    shutil.copy(model_folders["llama"] / "model.safetensors", tmp_path / "source/consolidated.safetensors")
    manifest = manifest_of(tmp_path / "source", tmp_path / "out")
    assert manifest["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert {name for name in manifest["files"] if name.endswith(".safetensors")} == shards
    loaded, _ = load_base(tmp_path / "out/manifest.json", torch.float32)
    assert all(map(torch.equal, loaded.parameters(), model.parameters()))
    (tmp_path / "source" / min(shards)).unlink()
    with pytest.raises(InputError, match=f"index.json names {min(shards)}, which is not there"):
        fetch(str(tmp_path / "source"), tmp_path / "out")


def test_tied_output_head_counts_once(tmp_path):
    """Old checkpoints contain the embedding twice."""
    config = LlamaConfig(**tiny.SIZES, vocab_size=90, num_key_value_heads=2, tie_word_embeddings=True)
    model = saved(tmp_path / "source", config)
    (tmp_path / "source/model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "source/pytorch_model.bin")
    assert "lm_head.weight" in model.state_dict()
    manifest = manifest_of(tmp_path / "source", tmp_path / "out")
    assert manifest["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert "active_parameters" not in manifest


def test_tied_embedding_counts_under_either_name(tmp_path):
    """A tied checkpoint may store the embedding under the name of the output head."""
    config = LlamaConfig(**tiny.SIZES, vocab_size=90, num_key_value_heads=2, tie_word_embeddings=True)
    model = saved(tmp_path, config)
    tensors = dict(model.state_dict())
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert count_parameters(tmp_path) == {"parameters": sum(parameter.numel() for parameter in model.parameters())}


EXPERTS = tiny.SIZES | {"vocab_size": 90, "num_key_value_heads": 2, "num_experts_per_tok": 2}
MIXTURES = {
    "mixtral": MixtralConfig(**EXPERTS, num_local_experts=8),
    "qwen2_moe": Qwen2MoeConfig(
        **EXPERTS, num_experts=6, moe_intermediate_size=24, shared_expert_intermediate_size=40, decoder_sparse_step=2
    ),
    "qwen3_moe": Qwen3MoeConfig(**EXPERTS, num_experts=4, moe_intermediate_size=24, head_dim=8),
    "gpt_oss": GptOssConfig(**EXPERTS, num_local_experts=8, head_dim=8),
    "granite_moe": GraniteMoeConfig(**EXPERTS, num_local_experts=4),
    "dense": LlamaConfig(**tiny.SIZES, vocab_size=90),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_active_parameters_exclude_idle_experts(tmp_path, name):
    """The count equals the size of a model that has only as many experts as a token uses.

    The router is an exception: its size is that for all experts.
    """
    model = saved(tmp_path / "source", MIXTURES[name])
    manifest = manifest_of(tmp_path / "source", tmp_path / "out")
    assert manifest["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    small = copy.deepcopy(MIXTURES[name])
    total = getattr(small, "num_local_experts", None) or getattr(small, "num_experts", None)
    if total is None:
        assert "active_parameters" not in manifest
        return
    setattr(small, "num_local_experts" if hasattr(small, "num_local_experts") else "num_experts", 2)
    active = AutoModelForCausalLM.from_config(small)
    routers = [
        sum(p.numel() for key, p in m.named_parameters() if "experts" not in key and p.shape[:1] == (count,))
        for m, count in ((model, total), (active, 2))
    ]
    expected = sum(parameter.numel() for parameter in active.parameters()) - routers[1] + routers[0]
    assert manifest["active_parameters"] == parameter_count(tmp_path / "out/manifest.json") == expected
