"""What computes responses: transformers or vLLM.

Both answer in the same way: `answer(component, prompts, counts, seeds, decoding, max_new_tokens)` gives counts[i]
responses to prompts[i], token ids in prompt-major order with EOS where it was reached, and what is random in the
j-th response comes from seeds[j] alone.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from prefloop.models import load_merged, load_policy, reference_for
from prefloop.quick_decoding import quicken
from prefloop.rows import InputError
from prefloop.samplers import Component, Sampling, mixes_logits
from prefloop.sampling import Decoding, Voice, generate
from prefloop.vllm_engine import set_environment


def engine_for(word: str, sampling: Sampling) -> str:
    """transformers or vllm: what `word`, which may also be auto, comes to here.

    auto is vLLM where there is a GPU and a vLLM built for it, and the sampler mixes no models. Raises InputError if
    vLLM is asked for and cannot do it, or is not installed.
    """
    if word == "vllm" and mixes_logits(sampling):
        raise InputError(f"engine vllm: sampler {sampling.sampler} mixes two models' logits, which vLLM cannot")
    if word == "vllm" and importlib.util.find_spec("vllm") is None:
        raise InputError(
            "engine vllm: there is no package vllm in this environment; run Snakemake with --use-conda, install what "
            "workflow/envs/vllm.yml lists, or set generation.engine: transformers"
        )
    if word == "auto":
        return "vllm" if not mixes_logits(sampling) and vllm_has_gpu() else "transformers"
    return word


def vllm_has_gpu() -> bool:
    """Whether there is a GPU and a vLLM built for it; the community's build for CPUs is not."""
    if not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None:
        return False
    set_environment()
    from vllm.platforms import current_platform

    return current_platform.is_cuda_alike()


class Transformers:
    """Policy and reference as voices of prefloop.sampling, in as few copies of the weights as it takes.

    A component of one model runs on that model alone, its adapter merged; one at a time is in memory. A mixture
    runs on both, which share the base weights where the policy is an adapter.
    """

    takes_all = False  # at once: memory grows with a batch

    def __init__(
        self, model: Path, files: dict[str, Path | None], eos: list[int], pad: int, dtype: torch.dtype, device: str
    ):
        self.model, self.files, self.place = model, files, (dtype, device)
        self.eos, self.pad = eos, pad
        self.loaded: set[Path] = set()
        self.voice_of: dict[Path, Voice] = {}

    def answer(
        self,
        component: Component,
        prompts: Sequence[list[int]],
        counts: Sequence[int],
        seeds: Sequence[int],
        decoding: Decoding,
        max_new_tokens: int,
    ) -> list[list[int]]:
        uniforms = np.stack([np.random.Generator(np.random.Philox(seed)).random(max_new_tokens) for seed in seeds])
        voices = self.voices(component)
        return generate(voices, prompts, counts, torch.from_numpy(uniforms), decoding, self.eos, self.pad)

    def voices(self, component: Component) -> list[Voice]:
        """Load what the component needs; in round 1 policy and reference are one, and so is what they mix to."""
        weights = {name: weight for name in self.files if (weight := getattr(component, name)) != 0}
        files = {self.files[name] for name in weights}
        if files != self.loaded:
            self.voice_of = {}  # free what was loaded before
            self.voice_of, self.loaded = self.load(files), files
        if len(files) == 1:
            (voice,) = self.voice_of.values()
            return [voice._replace(weight=sum(weights.values()))]
        return [self.voice_of[self.files[name]]._replace(weight=weight) for name, weight in weights.items()]

    def passes(self, component: Component) -> int:
        """Models that compute each token of a component."""
        return len(self.voices(component))

    def load(self, files: set[Path]) -> dict[Path, Voice]:
        if len(files) == 1:
            network, _ = load_merged(self.model, *files, *self.place)
            quicken(network)
            return {file: Voice(network) for file in files}
        policy, reference = self.files["policy"], self.files["reference"]
        network, _ = load_policy(self.model, policy, *self.place)
        other, context = reference_for(network, policy, reference, self.model, *self.place)
        return {policy: Voice(network), reference: Voice(other, context=context)}
