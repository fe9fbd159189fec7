"""vLLM as an engine of generation (prefloop.engines): the models, adapters and settings that it is given."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from prefloop.manifests import trusted
from prefloop.models import load_merged
from prefloop.policies import check_base, is_trained, read_policy, write_adapter
from prefloop.progress import bar_in_log
from prefloop.rows import InputError
from prefloop.samplers import Component
from prefloop.sampling import Decoding
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


def set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


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
            trust_remote_code=trusted(self.model),
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
    AutoConfig = import_transformers().AutoConfig
    config = AutoConfig.from_pretrained(Path(manifest).parent, trust_remote_code=trusted(manifest)).get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise InputError(
            f"{manifest}: the longest prompt and its response may have {longest} tokens, and the model has {limit} "
            "positions; lower prompts.max_prompt_tokens or max_new_tokens"
        )
