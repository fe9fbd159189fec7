"""Devices and precision: unusable GPUs raise, and every loader switches cuDNN's attention off."""

import os

import pytest
import torch

import tiny
from prefloop.config.feedback_settings import Judging
from prefloop.core import gpus
from prefloop.core.errors import InputError
from prefloop.feedback.local_judge import LocalJudge
from prefloop.feedback.reward_model import RewardModel, load_trainable_classifier
from prefloop.models._compat import probing
from prefloop.models.devices import allow_tf32, default_device, resolve_dtype
from prefloop.models.fetch import fetch
from prefloop.models.loading import load_base, load_encoder, load_merged, load_policy, load_scorers, load_trainable
from prefloop.models.options import Lora


@pytest.fixture
def fake_gpu(tmp_path, monkeypatch):
    """nvidia-smi lists a GPU, but torch is built for the CPU."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '0, GPU-aaaa'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpus.installed_gpus.cache_clear()
    yield
    gpus.installed_gpus.cache_clear()


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for a GPU")
def test_unusable_gpu_raises(fake_gpu, monkeypatch):
    with pytest.raises(InputError, match=r"^GPU 0: torch .* cannot use it \(Torch not compiled with CUDA enabled\); "):
        default_device()
    monkeypatch.setenv(gpus.VISIBLE, "1,3")  # set by SLURM, on a node without nvidia-smi
    with pytest.raises(InputError, match="^GPU 1, 3: torch"):
        default_device()


def test_error_names_an_outdated_driver(fake_gpu, monkeypatch):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nPlease update it")

    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(InputError, match=r"\(The NVIDIA driver on your system is too old \(found version 12020\)\.\)"):
        default_device()


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_hidden_gpu_means_the_cpu(fake_gpu, monkeypatch, hidden):
    monkeypatch.setenv(gpus.VISIBLE, hidden)
    assert default_device() == "cpu"


def test_default_dtype_depends_on_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert resolve_dtype(None, "cpu") == torch.float32
    assert resolve_dtype(None, "cuda") == torch.bfloat16
    assert resolve_dtype("float32", "cuda") == torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    assert resolve_dtype(None, "cuda:0") == torch.float32


def test_tf32_is_for_gpus_only():
    before = torch.get_float32_matmul_precision()
    try:
        allow_tf32("cpu")
        assert torch.get_float32_matmul_precision() == before == "highest"
        allow_tf32("cuda")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_probing_leaves_other_gpus_alone(monkeypatch):
    """By default torch saves the random state of all GPUs, which initializes CUDA on each."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: pytest.fail("the code uses all GPUs"))
    model, before = torch.nn.Linear(2, 2), torch.get_rng_state()
    with probing(model):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def reward_manifest(tmp_path):
    fetch(str(tiny.make_reward_model(tmp_path / "rm")), tmp_path / "fetched")
    return tmp_path / "fetched/manifest.json"


LORA, FLOAT = Lora(r=4), torch.float32
LOADERS = {
    "base": lambda model, policy, _: load_base(model, FLOAT),
    "policy": lambda model, policy, _: load_policy(model, policy, FLOAT, "cpu"),
    "policy of all parameters": lambda model, policy, _: load_policy(model, policy, FLOAT, "cpu"),
    "merged": lambda model, policy, _: load_merged(model, policy, FLOAT, "cpu"),
    "scorers": lambda model, policy, _: load_scorers(model, policy, model, FLOAT, "cpu"),
    "trainable": lambda model, policy, _: load_trainable(model, policy, "lora", LORA, FLOAT),
    "encoder": lambda model, policy, _: load_encoder(model, "cpu"),
    "judge": lambda model, policy, _: LocalJudge(Judging(), model, 1, 8),
    "reward model": lambda model, policy, reward: RewardModel(reward, 8, 1),
    "trainable classifier": lambda model, policy, _: load_trainable_classifier(model, "lora", LORA, 64, FLOAT),
}


@pytest.mark.parametrize("name", LOADERS)
def test_loaders_switch_cudnn_attention_off(name, manifests, trained, reward_manifest):
    policy = trained("full" if name == "policy of all parameters" else "lora")
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        LOADERS[name](manifests["llama"], policy, reward_manifest)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
