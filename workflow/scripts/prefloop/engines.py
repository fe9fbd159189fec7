"""What computes responses: transformers or vLLM.

Both answer in the same way: `answer(component, prompts, counts, seeds, decoding, max_new_tokens)` gives counts[i]
responses to prompts[i], token ids in prompt-major order with EOS where it was reached, and what is random in the
j-th response comes from seeds[j] alone.
"""

import gc
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from prefloop.models import check_base, is_trained, load_merged, load_policy, read_policy, reference_for
from prefloop.progress import bar_in_log
from prefloop.rows import InputError, read_json
from prefloop.samplers import Component, Sampling, mixes_logits
from prefloop.sampling import Decoding, Voice, generate
from prefloop.startup import import_transformers

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, for which vLLM has kernels
# Read by vLLM when it is imported. What a person has set stays.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: its threads are those asked for, its memory is counted
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # none for a scheduler that waits meanwhile
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # several GPUs: CUDA does not survive a fork
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are about its server's chat template and the like
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass
class VllmSettings:
    """How vLLM uses a machine; the names are those of config's `generation.vllm`."""

    tensor_parallel_size: int = 1
    """GPUs that share each model."""
    gpu_memory_utilization: float = 0.9
    """Share of each GPU's memory for weights and key-value cache."""
    max_num_seqs: int = 256
    """Responses decoded at once."""
    cpu_cache_gib: float = 2.0
    """Key-value cache where there is no GPU; GiB."""


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


def set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


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
            return {file: Voice(network) for file in files}
        policy, reference = self.files["policy"], self.files["reference"]
        network, _ = load_policy(self.model, policy, *self.place)
        other, context = reference_for(network, policy, reference, self.model, *self.place)
        return {policy: Voice(network), reference: Voice(other, context=context)}


class Vllm:
    """vLLM's offline engine: schedules all responses by itself and computes a prompt once for all its responses.

    On a GPU adapters lie beside the base weights, policy's and reference's at once. On a CPU that is several times
    slower than a merged model: there, and where every parameter was trained, the merged weights pass through a
    temporary folder, which is gone when they are read, and one model at a time is in memory.
    """

    takes_all = True  # at once: it forms its batches itself, as memory allows

    def __init__(
        self,
        model: Path,
        files: dict[str, Path | None],
        eos: list[int],
        dtype: torch.dtype,
        settings: VllmSettings,
        longest: int,
    ):
        """`longest` is the number of tokens of the longest prompt with its response."""
        check_length(model, longest)
        set_environment()
        from vllm.platforms import current_platform

        self.model, self.files, self.eos, self.dtype = model, files, eos, dtype
        self.settings, self.longest, self.on_cpu = settings, longest, current_platform.is_cpu()
        self.llm, self.weights = None, None
        self.scratch = tempfile.TemporaryDirectory(prefix="prefloop-")
        self.adapters = {} if self.on_cpu else self.write_adapters()

    def write_adapters(self) -> dict[Path, tuple[int, Path]]:
        """Rank and PEFT folder of each policy file that is an adapter vLLM has kernels for."""
        adapters = {}
        for file in dict.fromkeys(file for file in self.files.values() if file and is_trained(file)):
            saved = read_policy(file)
            check_base(saved, self.model, file)
            if saved["adapter"] is not None and saved["adapter"]["r"] <= max(RANKS):
                folder = Path(self.scratch.name, f"adapter-{len(adapters) + 1}")
                write_adapter(folder, saved)
                adapters[file] = saved["adapter"]["r"], folder
        return adapters

    def answer(
        self,
        component: Component,
        prompts: Sequence[list[int]],
        counts: Sequence[int],
        seeds: Sequence[int],
        decoding: Decoding,
        max_new_tokens: int,
    ) -> list[list[int]]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        ((file, weight),) = {(file, w) for name, file in self.files.items() if (w := getattr(component, name)) != 0}
        adapter = None
        if file in self.adapters:
            number = list(self.adapters).index(file) + 1
            adapter = LoRARequest(f"adapter-{number}", number, str(self.adapters[file][1]))
        self.load(file if is_trained(file) and not adapter else None)
        repeated = [ids for ids, count in zip(prompts, counts, strict=True) for _ in range(count)]
        outputs = self.llm.generate(
            [{"prompt_token_ids": ids} for ids in repeated],
            [
                SamplingParams(
                    temperature=decoding.temperature / weight,
                    top_p=decoding.top_p,
                    top_k=decoding.top_k or 0,
                    seed=seed,
                    max_tokens=max_new_tokens,
                    stop_token_ids=self.eos,
                    detokenize=False,
                )
                for seed in seeds
            ],
            lora_request=adapter,
            use_tqdm=True if sys.stderr.isatty() else bar_in_log("generate", "response"),
        )
        return [list(output.outputs[0].token_ids) for output in outputs]

    def passes(self, component: Component) -> int:
        """Models that compute each token of a component."""
        return 1

    def load(self, trained: Path | None) -> None:
        """Make sure that the engine runs the base weights (None), or those of a policy file merged into them."""
        if self.llm is not None and self.weights == trained:
            return
        self.free()
        if trained is None:
            self.start(self.model.parent)
        else:
            folder = Path(self.scratch.name, "merged")
            load_merged(self.model, trained, self.dtype, "cpu")[0].save_pretrained(folder)
            self.start(folder)
            shutil.rmtree(folder)
        self.weights = trained

    def start(self, folder: Path) -> None:
        from vllm import LLM

        rank = max((rank for rank, _ in self.adapters.values()), default=0)
        lora = {"max_lora_rank": next(r for r in RANKS if r >= rank), "max_loras": len(self.adapters)} if rank else {}
        cache = int(self.settings.cpu_cache_gib * 2**30) if self.on_cpu else None
        self.llm = LLM(
            str(folder),
            skip_tokenizer_init=True,  # prompts come as token ids and responses stay so
            generation_config="vllm",  # what a model's own adds (a repetition penalty, say) transformers does not here
            trust_remote_code=read_json(self.model).get("trust_remote_code", False),
            dtype=self.dtype,
            tensor_parallel_size=self.settings.tensor_parallel_size,
            gpu_memory_utilization=self.settings.gpu_memory_utilization,
            kv_cache_memory_bytes=cache,
            max_num_seqs=self.settings.max_num_seqs,
            max_model_len=self.longest,
            enable_prefix_caching=True,
            enforce_eager=self.on_cpu,  # compiling takes longer there than it saves
            enable_lora=bool(lora),
            **lora,
            **(whole_prompts(self.longest) if self.on_cpu else {}),
        )

    def end(self, *_) -> None:
        """On SIGTERM: remove the temporary folder and end as SIGTERM ends a program.

        Not by raising SystemExit, which is lost where the signal arrives while Python deletes an object.
        """
        self.scratch.cleanup()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def free(self) -> None:
        """Give the memory of the engine's weights and cache back before another takes it."""
        if self.llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        gc.collect()
        cleanup_dist_env_and_memory()


def whole_prompts(longest: int) -> dict:
    """Settings of vLLM on a CPU, where it cannot compute a prompt in parts if the response has a seed of its own.

    It would take back the number that it drew after a part, and torch's generator on a CPU has no way back.
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(longest, 4096)}


def check_length(manifest: Path, longest: int) -> None:
    """Raise InputError if a prompt with its response has more tokens than the model has positions."""
    remote = read_json(manifest).get("trust_remote_code", False)
    config = (
        import_transformers()
        .AutoConfig.from_pretrained(Path(manifest).parent, trust_remote_code=remote)
        .get_text_config()
    )
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise InputError(
            f"{manifest}: the longest prompt and its response may have {longest} tokens, and the model has {limit} "
            "positions; lower prompts.max_prompt_tokens or max_new_tokens"
        )


def write_adapter(folder: Path, saved: dict) -> None:
    """Write the adapter of a policy.pt as a PEFT folder; the base model's weights need not be loaded for that."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    modules = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in saved["state_dict"]}
    shape = saved["adapter"]
    folder.mkdir()
    LoraConfig(
        r=shape["r"],
        lora_alpha=shape["alpha"],
        lora_dropout=shape["dropout"],
        target_modules=sorted(modules),
        task_type="CAUSAL_LM",
    ).save_pretrained(folder)
    save_file(saved["state_dict"], folder / "adapter_model.safetensors")
