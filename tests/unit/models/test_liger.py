"""Liger kernels: applied to every policy if requested, and refused if they cannot be used."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from prefloop.core.errors import InputError
from prefloop.models import liger
from prefloop.models.full_policies import load_full
from prefloop.models.liger import use_liger
from prefloop.models.loading import load_base, load_merged, load_policy, load_trainable, loading_options
from prefloop.models.options import Lora
from prefloop.models.policies import read_policy


@pytest.fixture(autouse=True)
def no_other_tests(monkeypatch):
    monkeypatch.setattr(liger, "LIGER", set())


@pytest.fixture
def patched(monkeypatch):
    """Records (model, options) of every call of a fake liger-kernel, on a machine that seems to have a GPU."""
    calls = []
    module = ModuleType("liger_kernel.transformers.monkey_patch")
    module.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None, "qwen3": None}
    module._apply_liger_kernel_to_instance = lambda model, **layers: calls.append((model, layers))
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(liger, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: name)))
    monkeypatch.setattr("prefloop.models.devices.default_device", lambda: "cuda")
    return calls


def test_every_loader_of_policies_applies_the_kernels_once(patched, manifests, trained):
    """Covers sampling, scoring, training and the empty model of sharded training. Adapters are added afterwards."""
    manifest, adapter, full = manifests["llama"], trained("lora"), trained("full")
    use_liger(manifest)
    float32 = torch.float32
    models = [
        load_policy(manifest, adapter, float32, "cpu"),
        load_merged(manifest, adapter, float32, "cpu"),
        load_full(read_policy(full), manifest, full, float32, "cpu"),
        load_trainable(manifest, manifest, "lora", Lora(r=4), float32),
        load_trainable(manifest, full, "full", Lora(), float32),
        load_trainable(manifest, manifest, "full", Lora(), float32, reads_weights=False),
    ]
    without_adapters = [m.get_base_model() if hasattr(m, "get_base_model") else m for m, _ in models]
    assert [id(model) for model, _ in patched] == [id(model) for model in without_adapters]


def test_losses_are_not_replaced(patched, manifests):
    """Liger could replace the forward pass by one with a fused loss, and PyTorch's cross-entropy."""
    use_liger(manifests["llama"])
    load_base(manifests["llama"], torch.float32)
    ((_, asked),) = patched
    assert asked == {
        **{"rope": True, "rms_norm": True, "swiglu": True, "geglu": True},
        **{"cross_entropy": False, "fused_linear_cross_entropy": False},
    }


def test_other_models_keep_their_operations(patched, manifests):
    use_liger(manifests["llama"])
    load_base(manifests["qwen"], torch.float32)
    assert patched == []
    assert loading_options(manifests["llama"]) == [None, True]
    assert loading_options(manifests["qwen"]) == [None, False]


def test_model_without_kernels_is_refused(patched, manifests):
    use_liger(manifests["gpt2"])
    with pytest.raises(InputError, match="Liger has no kernels for models of type gpt2; set it to false"):
        load_base(manifests["gpt2"], torch.float32)


def test_machine_without_gpu_or_liger_is_refused(monkeypatch, manifests):
    use_liger(manifests["llama"])
    monkeypatch.setattr("prefloop.models.devices.default_device", lambda: "cpu")
    with pytest.raises(InputError, match="policy.use_liger_kernel: true needs a GPU, and this stage runs on cpu"):
        load_base(manifests["llama"], torch.float32)
    monkeypatch.setattr("prefloop.models.devices.default_device", lambda: "cuda")
    monkeypatch.setattr(liger, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
    with pytest.raises(InputError, match="policy.use_liger_kernel: true needs the package liger-kernel; install it"):
        load_base(manifests["llama"], torch.float32)


def test_rules_pass_the_setting_to_all_programs_that_load_policies(workdir):
    """Other programs do not get the flag. Also works together with 4-bit base weights."""
    workdir.configure(policy={"use_liger_kernel": True, "quantization": "nf4"}, figures=["gradients"])
    planned = workdir.run("--dry-run", "--printshellcmds")
    assert planned.returncode == 0, planned.stdout
    flags = r"(--quantized-model \S+/manifest.json nf4 --liger-model \S+/manifest.json )?"
    commands = re.findall(rf"scripts/(\w+)\.py {flags}--", planned.stdout)
    with_flag = {name for name, flag in commands if flag}
    assert with_flag == {"generate", "logprobs", "train", "measure_gradients"}
    assert not with_flag & {name for name, flag in commands if not flag}
