"""Settings of sampling and of log-probabilities: the sections generation and logprobs."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from prefloop.core.metadata import NO_FLAG, OnlyIf, Unique, Unit
from prefloop.methods.samplers import SAMPLED, Sampling
from prefloop.models.options import Dtype


@dataclass
class SamplingParams:
    """How tokens are sampled. The default length suits instruction-following models."""

    temperature: Annotated[float, Ge(0), Unit("pure number"), SAMPLED] = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: Annotated[float, Gt(0), Le(1), Unit("probability"), SAMPLED] = 1.0
    """Sample from the smallest set of most probable tokens with at least this total probability."""
    top_k: Annotated[int | None, Ge(1), Unit("tokens"), SAMPLED] = None
    """Sample from this many of the most probable tokens; null means all."""
    max_new_tokens: Annotated[int, Ge(1), Unit("tokens"), SAMPLED] = 512
    """Maximum length of a response. Longer responses are cut."""
    min_p: Annotated[float, Ge(0), Lt(1), Unit("fraction of a probability"), SAMPLED] = 0.0
    """Tokens with less than this fraction of the most probable token's probability are not sampled; 0 excludes none."""
    repetition_penalty: Annotated[float, Gt(0), Unit("factor"), SAMPLED] = 1.0
    """Factor against repetition: positive logits of tokens that the prompt or the response already contains are divided
    by it, negative ones multiplied; 1 has no effect."""
    stop: Annotated[tuple[Annotated[str, NO_FLAG], ...], Unique(), SAMPLED] = ()
    """Strings that end a response. Like the end-of-turn token, they are part of its tokens but not of its text."""


@dataclass
class VllmSettings:
    """How vLLM uses the machine."""

    tensor_parallel_size: Annotated[int, Ge(1), Unit("GPUs")] = 1
    """GPUs over which each model is split."""
    gpu_memory_utilization: Annotated[float, Gt(0), Le(1), Unit("fraction of memory")] = 0.9
    """Fraction of the memory of each GPU for weights and key-value cache."""
    max_num_seqs: Annotated[int, Ge(1), Unit("responses")] = 256
    """Maximum number of responses that are decoded together. batch_size applies only to transformers."""
    cpu_cache_gib: Annotated[float, Gt(0), Unit("GiB")] = 2.0
    """Size of the key-value cache on a machine without a GPU."""


@dataclass
class GenerationConfig(SamplingParams, Sampling):
    """How responses are sampled."""

    batch_size: Annotated[int, Ge(1), Unit("responses"), SAMPLED] = 64
    """Responses per batch with engine transformers."""
    dtype: Dtype = "auto"
    """Dtype of the computation; auto means bfloat16 if the hardware multiplies it fast, else float32."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """Engine that samples all responses; auto means vllm if it is installed, there is a GPU, the sampler mixes no
    logits and the weights are not quantized, else transformers."""
    vllm: Annotated[VllmSettings, OnlyIf("engine", ("auto", "vllm"))] = field(default_factory=VllmSettings)
    """How vLLM uses the machine."""
    vllm_build: Annotated[Literal["cuda", "cpu"], OnlyIf("engine", ("vllm",))] = "cuda"
    """Conda environment of engine vllm: workflow/envs/vllm.yml (cuda) or vllm-cpu.yml (cpu)."""


@dataclass
class LogprobsConfig:
    """Log-probabilities of responses under policy and reference."""

    batch_size: Annotated[int, Ge(1), Unit("responses")] = 64
    """Responses per batch."""
    dtype: Dtype = "auto"
    """Dtype of the computation; auto means bfloat16 if the hardware multiplies it fast, else float32."""
