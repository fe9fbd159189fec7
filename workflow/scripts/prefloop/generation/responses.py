"""Planning and sampling the responses to prompts, and the rows of generations.jsonl."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prefloop.config.generation_settings import GenerationConfig, SamplingParams
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.progress import Progress
from prefloop.core.registry import lookup
from prefloop.core.seeds import rng_for, seed_for
from prefloop.core.shards import Shard
from prefloop.core.truncation import truncation_warning
from prefloop.generation.engines import Engine
from prefloop.generation.stop_strings import StopStrings
from prefloop.generation.vllm_engine import vllm_has_gpu
from prefloop.methods.samplers import SAMPLERS, Component, Sampling, mixes_logits
from prefloop.models.batching import batches_by_length
from prefloop.models.chat import DEFAULT_FORMAT, ChatFormat, load_tokenizer, response_ids, response_text
from prefloop.models.manifests import is_trusted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PlanKey = tuple[int, int]
"""Index of the prompt, response_id."""


class PlannedResponse(NamedTuple):
    """A response that has not been sampled yet."""

    prompt_index: int
    response_id: int
    component: Component
    seed: int

    @property
    def key(self) -> PlanKey:
        return self.prompt_index, self.response_id


class Response(NamedTuple):
    """A response as token ids and as text."""

    token_ids: list[int]
    """Token ids, including the token that ended the response."""
    text: str
    finish_reason: str
    """`stop` if an end token or a stop string ended the response, else `length`."""


def resolve_engine(name: str, sampling: Sampling, quantization: str | None = None) -> str:
    """The engine to use, transformers or vllm.

    `auto` is vllm if there is a GPU with a vLLM built for it, no mixture of models, and no quantization.

    Args:
        name (str): The configured engine.
        sampling (Sampling): Settings of the sampler.
        quantization (str | None): Quantization of the base weights, which vLLM would read unquantized.

    Raises:
        InputError: `name` is vllm, but vLLM is not installed or does not support the sampler or the quantization.
    """
    if name == "vllm" and quantization is not None:
        raise InputError(f"engine vllm: it reads base weights in full, not in {quantization}; use engine transformers")
    if name == "vllm" and mixes_logits(sampling):
        raise InputError(f"engine vllm: sampler {sampling.sampler} mixes two models' logits, which vLLM cannot do")
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise InputError(
            "engine vllm: the package vllm is not installed in this environment; run Snakemake with --use-conda, "
            "install what workflow/envs/vllm.yml lists, or use engine transformers"
        )
    if name == "auto":
        fits = quantization is None and not mixes_logits(sampling)
        return "vllm" if fits and vllm_has_gpu() else "transformers"
    return name


def plan_responses(prompt_ids: Sequence[str], sampling: Sampling, seed: int, stream: str) -> list[PlannedResponse]:
    """Choose the component and seed of each response.

    Args:
        prompt_ids: [prompts].
        sampling: Settings of the sampler.
        seed: Seed of the run.
        stream: Name of the round and step, so that each has its own random numbers.

    Returns:
        Responses in the order of prompts and response ids.
    """
    sampler = lookup(SAMPLERS, sampling.sampler, "sampler")
    planned = []
    for i, prompt_id in enumerate(prompt_ids):
        uniforms = rng_for(seed, "sampler", stream, prompt_id).random(sampling.n).tolist()
        for response_id, component in enumerate(sampler(sampling.n, uniforms, sampling.mixp)):
            response_seed = seed_for(seed, "generate", stream, prompt_id, response_id)
            planned.append(PlannedResponse(i, response_id, component, response_seed))
    return planned


def sample_planned(
    engine: Engine,
    planned: Sequence[PlannedResponse],
    prompts: Sequence[list[int]],
    params: SamplingParams,
    batch_size: int,
    shard: Shard,
    meter: CostMeter,
) -> dict[PlanKey, list[int]]:
    """Sample a shard's responses, one component after the other, in batches of prompts of similar length.

    Args:
        engine: Samples the responses.
        planned: Responses of all shards.
        prompts: Token ids of each prompt.
        params: Sampling settings and the maximum length.
        batch_size: Responses per batch. It is ignored if the engine forms batches itself.
        shard: The shard of the batches.
        meter: Counts the tokens.

    Returns:
        Token ids of each response.
    """
    sampled: dict[PlanKey, list[int]] = {}
    for component in dict.fromkeys(response.component for response in planned):
        groups: dict[int, list[PlannedResponse]] = {}
        for response in planned:
            if response.component == component:
                groups.setdefault(response.prompt_index, []).append(response)
        batches = form_prompt_batches(groups, prompts, batch_size, shard)
        if engine.forms_batches and batches:
            batches = [[i for batch in batches for i in batch]]
        total = sum(len(groups[i]) for batch in batches for i in batch)
        with Progress(f"generate ({component.name})", total, "response") as progress:
            for batch in batches:
                responses = [response for i in batch for response in groups[i]]
                inputs = [prompts[i] for i in batch]
                counts, seeds = [len(groups[i]) for i in batch], [response.seed for response in responses]
                token_ids = engine.generate(component, inputs, counts, seeds, params)
                sampled |= {response.key: ids for response, ids in zip(responses, token_ids, strict=True)}
                models, tokens = engine.models_per_token(component), sum(map(len, token_ids))
                meter.forward(models * sum(map(len, inputs)), tokens)
                meter.forward((models - 1) * tokens)
                progress.update(len(responses), tokens)
    return sampled


def form_prompt_batches(
    groups: Mapping[int, Sequence[PlannedResponse]], prompts: Sequence[list[int]], batch_size: int, shard: Shard
) -> list[list[int]]:
    """Batches of prompt indices for a shard, with at most `batch_size` responses, or one prompt if it has more."""
    indices = list(groups)
    prompts_per_batch = max(1, batch_size // max(map(len, groups.values())))
    batches = batches_by_length([len(prompts[i]) for i in indices], prompts_per_batch)
    return [[indices[j] for j in batch] for batch in shard.select(batches)]


def decode_responses(
    tokenizer: "PreTrainedTokenizerBase",
    sampled: Mapping[PlanKey, list[int]],
    eos: Sequence[int],
    chat: ChatFormat = DEFAULT_FORMAT,
    stop: Sequence[str] = (),
) -> dict[PlanKey, Response]:
    """Sampled responses with their texts, from which the ending token of `eos` or string of `stop` is removed."""
    strings = StopStrings(tokenizer, stop)

    def response(ids: list[int]) -> Response:
        text = strings.cut_text(response_text(tokenizer, ids, eos, chat))
        return Response(ids, text, "stop" if ids[-1] in eos or strings.completed(ids) else "length")

    return {key: response(ids) for key, ids in sampled.items()}


def dataset_responses(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict],
    planned: Sequence[PlannedResponse],
    shard: Shard,
    chat: ChatFormat = DEFAULT_FORMAT,
) -> dict[PlanKey, Response]:
    """The `chosen` and `rejected` responses of a shard's prompts in full, with end token."""
    indices = set(shard.select(range(len(rows))))
    responses = {}
    for response in planned:
        if response.prompt_index in indices:
            row = rows[response.prompt_index]
            text = row[response.component.name]
            responses[response.key] = Response(response_ids(tokenizer, row["messages"], text, chat), text, "stop")
    return responses


def chosen_responses(prompts: Sequence[dict], manifest: Path, chat: ChatFormat = DEFAULT_FORMAT) -> dict[str, dict]:
    """The chosen responses of prompts as rows of samples, by prompt_id; the model's tokenizer counts tokens."""
    tokenizer = load_tokenizer(manifest.parent, is_trusted(manifest))
    return {
        row["prompt_id"]: {
            "prompt_id": row["prompt_id"],
            "response_id": -1,
            "response": row["chosen"],
            "n_tokens": len(response_ids(tokenizer, row["messages"], row["chosen"], chat)),
        }
        for row in prompts
        if row.get("chosen")
    }


def generation_rows(
    rows: Sequence[dict], planned: Sequence[PlannedResponse], responses: Mapping[PlanKey, Response], sampler: str
) -> Iterator[dict]:
    """The rows of generations.jsonl in the order of the prompts, without those of other shards."""
    for planned_response in planned:
        if (response := responses.get(planned_response.key)) is not None:
            prompt = rows[planned_response.prompt_index]
            yield {
                "prompt_id": prompt["prompt_id"],
                "cluster": prompt.get("cluster"),
                "response_id": planned_response.response_id,
                "response": response.text,
                "token_ids": response.token_ids,
                "sampler": sampler,
                "component": planned_response.component.name,
                "finish_reason": response.finish_reason,
                "n_tokens": len(response.token_ids),
            }


def count_truncated(responses: Mapping[PlanKey, Response]) -> int:
    """Number of truncated responses."""
    return sum(response.finish_reason == "length" for response in responses.values())


def describe_responses(
    responses: Mapping[PlanKey, Response], settings: GenerationConfig, policy: str, section: str
) -> tuple[str, int, str, str]:
    """Texts for the summary of a stage that samples.

    Args:
        responses: The sampled responses by prompt and number, of this shard.
        settings: Settings of the stage.
        policy: See `truncation_warning`.
        section: See `truncation_warning`.

    Returns:
        The work, the number of tokens, the result, and a warning if many responses are truncated.
    """
    truncated, tokens = count_truncated(responses), sum(len(response.token_ids) for response in responses.values())
    prompts = len({prompt for prompt, _ in responses})
    work = f"{prompts} prompts, {len(responses)} responses by {settings.sampler}, {tokens:,} tokens"
    warning = truncation_warning(truncated, len(responses), settings.max_new_tokens, policy, section)
    return work, tokens, f"{truncated} truncated", warning
