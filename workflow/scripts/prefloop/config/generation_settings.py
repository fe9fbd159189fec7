"""Settings of sampling and of log-probabilities: the sections generation and logprobs."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from prefloop.core.metadata import Matches, OnlyIf, Unique, Unit
from prefloop.methods.samplers import SAMPLED, Sampling
from prefloop.models.options import Dtype

StopString = Matches(r"(?s)(?!--?\w).+", "text that does not begin like a flag, as -x does")


@dataclass
class SamplingParams:
    """How one token follows another. The default length suits instruction-following models."""

    temperature: Annotated[float, Ge(0), Unit("pure number"), SAMPLED] = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: Annotated[float, Gt(0), Le(1), Unit("probability"), SAMPLED] = 1.0
    """Sample from the smallest set of most probable tokens with at least this total probability."""
    top_k: Annotated[int | None, Ge(1), Unit("tokens"), SAMPLED] = None
    """Sample from this many most probable tokens; null takes all."""
    max_new_tokens: Annotated[int, Ge(1), Unit("tokens"), SAMPLED] = 512
    """Longer responses are cut."""
    min_p: Annotated[float, Ge(0), Lt(1), Unit("fraction of a probability"), SAMPLED] = 0.0
    """Tokens with less than this fraction of the most probable token's probability are not sampled; 0 drops none."""
    repetition_penalty: Annotated[float, Gt(0), Unit("factor"), SAMPLED] = 1.0
    """Logits of tokens that the prompt or the response has already are divided by it, negative ones multiplied; 1 has
    no effect."""
    stop: Annotated[tuple[Annotated[str, StopString], ...], Unique(), SAMPLED] = ()
    """Strings that end a response. Like the end-of-turn token, they count among its tokens and not in its text."""


@dataclass
class VllmSettings:
    """How vLLM uses the machine."""

    tensor_parallel_size: Annotated[int, Ge(1), Unit("GPUs")] = 1
    """GPUs that share each model."""
    gpu_memory_utilization: Annotated[float, Gt(0), Le(1), Unit("fraction of memory")] = 0.9
    """Fraction of the memory of each GPU for weights and key-value cache."""
    max_num_seqs: Annotated[int, Ge(1), Unit("responses")] = 256
    """Responses decoded at once; batch_size is for transformers."""
    cpu_cache_gib: Annotated[float, Gt(0), Unit("GiB")] = 2.0
    """Key-value cache on a machine without a GPU."""


@dataclass
class GenerationConfig(SamplingParams, Sampling):
    """How responses are sampled."""

    batch_size: Annotated[int, Ge(1), Unit("responses"), SAMPLED] = 64
    """Responses per batch of transformers."""
    dtype: Dtype = "auto"
    """Arithmetic; auto is bfloat16 where the hardware multiplies it fast, else float32."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What samples responses and evaluation samples; auto is vllm if it is installed with a GPU, else transformers."""
    vllm: Annotated[VllmSettings, OnlyIf("engine", ("auto", "vllm"))] = field(default_factory=VllmSettings)
    """How vLLM uses the machine."""
    vllm_build: Annotated[Literal["cuda", "cpu"], OnlyIf("engine", ("vllm",))] = "cuda"
    """Conda environment of engine vllm: workflow/envs/vllm.yml, or vllm-cpu.yml."""


@dataclass
class LogprobsConfig:
    """Log-probabilities of responses under policy and reference."""

    batch_size: Annotated[int, Ge(1), Unit("responses")] = 64
    """Responses per batch."""
    dtype: Dtype = "auto"
    """Arithmetic; auto is bfloat16 where the hardware multiplies it fast, else float32."""
