"""Models are loaded from their files, and folders that do not contain a policy raise one line."""

import json
import shutil

import pytest
import torch

import tiny
from prefloop.core.errors import InputError
from prefloop.core.files import read_json
from prefloop.models.loading import load_base, load_merged, load_policy, load_trainable
from prefloop.models.options import Lora
from prefloop.models.policies import read_policy


def changed(manifest, folder, **differences):
    """Copy a fetched model with a changed config.json; return its manifest."""
    shutil.copytree(manifest.parent, folder)
    config = read_json(folder / "config.json") | differences
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "manifest.json"


def test_weights_of_another_size_raise(manifests, tmp_path):
    manifest = changed(manifests["llama"], tmp_path / "model", intermediate_size=48)
    problem = r"model.layers.0.mlp.down_proj.weight is .32, 64., and .32, 48. by config.json; download the model again"
    with pytest.raises(InputError, match=problem):
        load_base(manifest, torch.float32)


def test_code_of_a_policy_needs_permission(manifests, tmp_path):
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    manifest = changed(manifests["llama"], tmp_path / "model", model_type="own", auto_map=own)
    with pytest.raises(InputError, match="needs code of its own; if you trust it, set trust_remote_code: true next to"):
        load_base(manifest, torch.float32)


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def without_weights(request, manifests, tmp_path_factory):
    """Manifests of a base model and of a copy without weights, and a fully trained policy."""
    manifest, folder = manifests[request.param], tmp_path_factory.mktemp(request.param)
    model, _ = load_trainable(manifest, manifest, "full", Lora(), torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    tiny.write_policy(folder / "policy.pt", model, manifest, None)
    shutil.copytree(manifest.parent, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return manifest, folder / "model/manifest.json", folder / "policy.pt"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fully_trained_policy_reads_no_base_weights(without_weights, dtype):
    """Weights, buffers and settings equal those of the base model after loading the policy's weights."""
    base, manifest, policy = without_weights
    expected, _ = load_base(base, dtype)
    expected.load_state_dict(read_policy(policy)["state_dict"])
    loaders = [lambda: load_policy(manifest, policy, dtype, "cpu"), lambda: load_merged(manifest, policy, dtype, "cpu")]
    if dtype == torch.float32:
        loaders.append(lambda: load_trainable(manifest, policy, "full", Lora(), dtype))
    for load in loaders:
        model, _ = load()
        for kind in ("parameters", "buffers"):
            found, wanted = dict(getattr(model, f"named_{kind}")()), dict(getattr(expected, f"named_{kind}")())
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
            assert all(found[name].dtype == wanted[name].dtype for name in wanted)
        assert not model.training
        assert model.generation_config.to_dict() == expected.generation_config.to_dict()


def test_fully_trained_policy_is_saved_as_its_base(without_weights, tmp_path):
    """The checkpoint has the weight names of the model class, which readers such as vLLM expect."""
    base, manifest, policy = without_weights
    expected, _ = load_base(base, torch.float32)
    expected.load_state_dict(read_policy(policy)["state_dict"])
    expected.save_pretrained(tmp_path / "expected")
    load_policy(manifest, policy, torch.float32, "cpu")[0].save_pretrained(tmp_path / "found")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_training_does_not_change_the_starting_policy(without_weights):
    """Its weights are memory-mapped from the file."""
    _, manifest, policy = without_weights
    before = policy.read_bytes()
    model, _ = load_trainable(manifest, policy, "full", Lora(), torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert policy.read_bytes() == before


def test_adapter_in_bfloat16_keeps_rotary_frequencies(manifests, trained):
    """Rotary frequencies are not rounded with the weights; otherwise scores would differ from those in training."""
    manifest, policy = manifests["llama"], trained("lora")
    expected = dict(load_base(manifest, torch.float32)[0].named_buffers())
    assert expected
    for load in (load_policy, load_merged):
        model, _ = load(manifest, policy, torch.bfloat16, "cpu")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        found = {name.removeprefix("base_model.model."): buffer for name, buffer in model.named_buffers()}
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
