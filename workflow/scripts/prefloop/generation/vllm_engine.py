"""The vLLM engine for generation (`prefloop.generation.engines.Engine`)."""

import functools
import gc
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prefloop.config.generation_settings import SamplingParams, VllmSettings
from prefloop.core.errors import InputError
from prefloop.core.joined_steps import keep
from prefloop.core.progress import bar_in_log
from prefloop.generation.engines import weighted_policies
from prefloop.generation.stop_strings import StopStrings
from prefloop.methods.samplers import Component
from prefloop.models._compat import prepare_to_save
from prefloop.models.loading import load_merged
from prefloop.models.manifests import check_weights, is_trusted
from prefloop.models.policies import adapts_experts, check_base, is_trained, read_policy, write_adapter

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # ranks for which vLLM has kernels
# vLLM reads these variables when it is imported. Values set by the user take precedence.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: threads are as requested, and memory is measured
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # do not reserve a CPU for the scheduler
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # for several GPUs: CUDA does not work after a fork
    "VLLM_LOGGING_LEVEL": "ERROR",  # warnings are about the vLLM server
    "VLLM_NO_USAGE_STATS": "1",
}


def set_environment() -> None:
    """Set vLLM's environment variables; call it before vLLM is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def vllm_has_gpu() -> bool:
    """Whether there is a GPU and vLLM is built for it."""
    if not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None:
        return False
    set_environment()
    from vllm.platforms import current_platform

    return current_platform.is_cuda_alike()


class VllmEngine:
    """An `Engine` that runs vLLM offline. vLLM schedules all responses itself and computes each prompt once.

    On a GPU, the adapters of policy and reference are loaded together, next to the base weights. In other cases, merged
    weights are passed through a temporary folder, and only one model at a time is in memory. These cases are CPUs, on
    which adapters are several times slower than merged weights, full fine-tuning, and adapters or architectures that
    vLLM does not support.
    """

    forms_batches = True

    def __init__(
        self,
        model: Path,
        policies: dict[str, Path | None],
        eos: list[int],
        dtype: torch.dtype,
        settings: VllmSettings,
        max_tokens: int,
        stop: StopStrings | None = None,
    ) -> None:
        """Write adapters to a temporary folder. Models are loaded when a component needs them.

        Args:
            model: Manifest of the base model.
            policies: Files of `policy` and `reference`; None for a model that no component needs.
            eos: Token ids that end a response.
            dtype: Dtype of the weights.
            settings: Hardware settings of vLLM.
            max_tokens: Maximum number of tokens of a prompt and its response together.
            stop: Strings that end a response.
        """
        set_environment()
        from vllm.platforms import current_platform

        self.model, self.policies, self.eos, self.dtype, self.stop = model, policies, eos, dtype, stop
        self.settings, self.max_tokens, self.on_cpu = settings, max_tokens, current_platform.is_cpu()
        self.llm: Any = None
        self.merged_policy: Path | None = None  # the policy whose weights `llm` has; None for the base weights
        self.scratch = tempfile.TemporaryDirectory(prefix="prefloop-")
        self.adapters = {} if self.on_cpu else self.write_adapters()

    def allow(self, max_tokens: int) -> None:
        """Allow longer prompts and responses. If `max_tokens` is larger than before, vLLM is started again later."""
        if max_tokens > self.max_tokens:
            self.free()
            self.max_tokens = max_tokens

    @functools.cached_property
    def supports_adapters(self) -> bool:
        """Whether vLLM's class for the base model supports adapters. Those of GPT-2, Bloom and Falcon do not."""
        from vllm.engine.arg_utils import EngineArgs
        from vllm.model_executor.model_loader.utils import get_model_cls
        from vllm.model_executor.models.interfaces import supports_lora

        arguments = EngineArgs(
            model=str(self.model.parent),
            skip_tokenizer_init=True,
            trust_remote_code=is_trusted(self.model),
            dtype=self.dtype,
            max_model_len=self.max_tokens,
        )
        return supports_lora(get_model_cls(arguments.create_model_config()))

    def write_adapters(self) -> dict[Path, tuple[int, Path]]:
        """Write the adapters that vLLM can load next to the base weights; rank and PEFT folder by policy file."""
        adapters: dict[Path, tuple[int, Path]] = {}
        for policy in dict.fromkeys(policy for policy in self.policies.values() if policy and is_trained(policy)):
            content = read_policy(policy)
            check_base(content, self.model, policy)
            has_kernel = content["adapter"] is not None and content["adapter"]["r"] <= max(LORA_RANKS)
            is_plain = has_kernel and not content["adapter"].get("dora") and not adapts_experts(content)
            if is_plain and self.supports_adapters:
                folder = Path(self.scratch.name, f"adapter-{len(adapters) + 1}")
                write_adapter(folder, content)
                adapters[policy] = content["adapter"]["r"], folder
        return adapters

    def generate(
        self,
        component: Component,
        prompts: Sequence[list[int]],
        counts: Sequence[int],
        seeds: Sequence[int],
        params: SamplingParams,
    ) -> list[list[int]]:
        """See `Engine.generate`."""
        import vllm
        from vllm.lora.request import LoRARequest

        ((policy, weight),) = set(weighted_policies(component, self.policies))
        adapter = None
        if policy in self.adapters:
            adapter_id = list(self.adapters).index(policy) + 1
            adapter = LoRARequest(f"adapter-{adapter_id}", adapter_id, str(self.adapters[policy][1]))
        self.load(policy if is_trained(policy) and not adapter else None)
        repeated = [ids for ids, count in zip(prompts, counts, strict=True) for _ in range(count)]
        outputs = self.llm.generate(
            [{"prompt_token_ids": ids} for ids in repeated],
            [
                vllm.SamplingParams(
                    temperature=params.temperature / weight,
                    top_p=params.top_p,
                    top_k=params.top_k or 0,
                    min_p=params.min_p,
                    repetition_penalty=params.repetition_penalty,
                    seed=seed,
                    max_tokens=params.max_new_tokens,
                    stop_token_ids=self.eos,
                    stop=list(params.stop),
                    detokenize=self.stop is not None,
                )
                for seed in seeds
            ],
            lora_request=adapter,
            use_tqdm=True if sys.stderr.isatty() else bar_in_log("generate", "response"),
        )
        responses = [list(output.outputs[0].token_ids) for output in outputs]
        return responses if self.stop is None else [self.stop.cut_ids(ids) for ids in responses]

    def models_per_token(self, component: Component) -> int:
        return 1

    def load(self, policy: Path | None) -> None:
        """Start vLLM with the base weights (None) or with a policy merged into them, unless it already has them."""
        if self.llm is not None and self.merged_policy == policy:
            return
        self.free()
        if policy is None:
            self.start(self.model.parent)
        else:
            folder = Path(self.scratch.name, "merged")
            merged, _ = load_merged(self.model, policy, self.dtype, "cpu")
            prepare_to_save(merged)
            merged.save_pretrained(folder)
            self.start(folder)
            shutil.rmtree(folder)
        self.merged_policy = policy

    def start(self, folder: Path) -> None:
        """Start vLLM with the weights in a folder; InputError if the job has too few GPUs."""
        from vllm import LLM

        size = self.settings.tensor_parallel_size
        if size > 1 and not self.on_cpu and torch.cuda.device_count() < size:
            raise InputError(
                f"vllm.tensor_parallel_size: {size}, but this job can use {torch.cuda.device_count()} GPU(s); start "
                f"Snakemake with --resources gpu={size}, or lower it"
            )
        rank = max((rank for rank, _ in self.adapters.values()), default=0)
        options: dict[str, Any] = whole_prompts(self.max_tokens) if self.on_cpu else {}
        if rank:
            options |= {
                "max_lora_rank": next(kernel_rank for kernel_rank in LORA_RANKS if kernel_rank >= rank),
                "max_loras": len(self.adapters),
            }
        check_weights(self.model)
        self.llm = LLM(
            str(folder),
            tokenizer=str(self.model.parent),
            skip_tokenizer_init=self.stop is None,  # prompts and responses are token ids; only stop strings need text
            generation_config="vllm",  # ignore the model's own defaults, such as a repetition penalty, as elsewhere
            trust_remote_code=is_trusted(self.model),
            dtype=self.dtype,
            tensor_parallel_size=self.settings.tensor_parallel_size,
            gpu_memory_utilization=self.settings.gpu_memory_utilization,
            kv_cache_memory_bytes=int(self.settings.cpu_cache_gib * 2**30) if self.on_cpu else None,
            max_num_seqs=self.settings.max_num_seqs,
            max_model_len=self.max_tokens,
            enable_prefix_caching=True,
            enforce_eager=self.on_cpu,  # on a CPU, compiling takes longer than it saves
            enable_lora=bool(rank),
            **options,
        )

    def end(self, *_: object) -> None:
        """Handler of SIGTERM: remove the temporary folder and end the process with SIGTERM.

        It does not raise SystemExit, which is lost if the signal arrives while Python deletes an object.
        """
        self.scratch.cleanup()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def free(self) -> None:
        """Free the memory of vLLM's weights and cache."""
        if self.llm is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        gc.collect()
        cleanup_dist_env_and_memory()


def load_vllm(
    model: Path,
    policies: dict[str, Path | None],
    eos: list[int],
    dtype: torch.dtype,
    settings: VllmSettings,
    max_tokens: int,
    stop: StopStrings | None,
) -> VllmEngine:
    """The engine of a program, with a handler of SIGTERM. Joined steps share it. Arguments as in `VllmEngine`."""
    engine = keep(VllmEngine, model, policies, eos, dtype, settings, max_tokens=max_tokens, stop=stop)
    engine.allow(max_tokens)
    signal.signal(signal.SIGTERM, engine.end)
    return engine


def whole_prompts(max_tokens: int) -> dict[str, Any]:
    """Options that make vLLM compute each prompt as a whole on a CPU.

    With chunked prefill, vLLM would have to undo the random number drawn after each chunk of a prompt if the response
    has its own seed. torch's generators on a CPU do not support this.
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_tokens, 4096)}
