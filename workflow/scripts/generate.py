"""Sample responses to prompts from the policy, the reference, or mixtures of both."""

from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from _program import run
from prefloop.config.generation_settings import GenerationConfig
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.joined_steps import keep
from prefloop.core.jsonl import has_pair, read_rows, write_rows
from prefloop.core.progress import Summary
from prefloop.core.shards import Shard
from prefloop.generation.engines import TransformersEngine
from prefloop.generation.responses import (
    count_truncated,
    dataset_responses,
    decode_responses,
    describe_responses,
    generation_rows,
    plan_responses,
    resolve_engine,
    sample_planned,
)
from prefloop.generation.stop_strings import StopStrings
from prefloop.generation.vllm_engine import load_vllm
from prefloop.models.chat import eos_ids, load_tokenizer, prompt_ids, read_format
from prefloop.models.devices import default_device, resolve_dtype
from prefloop.models.manifests import is_trusted, parameter_count
from prefloop.models.positions import check_positions, generation_config
from prefloop.models.quantization import quantization_of


def main(
    *,
    model: Path,
    prompts: Path,
    output: Path,
    cost: Path,
    seed: int,
    stream: str,
    settings: Annotated[GenerationConfig, arg(name="")],
    shard: Shard,
    policy: Path | None = None,
    reference: Path | None = None,
    chat: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Sample n responses to each prompt.

    Args:
        model: Manifest of the policy's base model.
        prompts: Prompts to answer.
        output: Output path for the generations, in the order of the prompts.
        cost: Output path for the cost.
        seed: The run's seed.
        stream: Name of this use of the seed, e.g. round-1/step-2; each stream has its own random numbers.
        shard: The part of the batches to answer; other jobs answer the rest.
        policy: The policy, if the sampler uses it: a policy.pt or the base model's manifest.
        reference: The reference, in the same form.
        chat: The run's chat format, a chat.json; the template's own variables and today's date if not given.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("generate", parameter_count(model), default_device())
    rows = read_rows(prompts, ["prompt_id", "messages"])
    planned = plan_responses([row["prompt_id"] for row in rows], settings, seed, stream)
    tokenizer, chat_format = load_tokenizer(model.parent, is_trusted(model)), read_format(chat)
    if settings.sampler == "dataset":
        if without := [row["prompt_id"] for row in rows if not has_pair(row)]:
            raise InputError(f"{prompts}: prompt {without[0]} has no responses of its own, which sampler dataset needs")
        responses = dataset_responses(tokenizer, rows, planned, shard, chat_format)
    else:
        encoded = [prompt_ids(tokenizer, row["messages"], chat_format) for row in rows]
        eos = eos_ids(tokenizer, generation_config(model), chat_format)
        meter.notes["engine"] = resolve_engine(settings.engine, settings, quantization_of(model))
        dtype, policies = resolve_dtype(settings.dtype, meter.device), {"policy": policy, "reference": reference}
        stop = StopStrings(tokenizer, settings.stop) if settings.stop else None
        max_tokens = max(map(len, encoded)) + settings.max_new_tokens
        check_positions(model, max_tokens)
        if meter.notes["engine"] == "vllm":
            engine = load_vllm(model, policies, eos, dtype, settings.vllm, max_tokens, stop)
        else:
            engine = keep(TransformersEngine, model, policies, eos, dtype, meter.device, stop=stop)
        sampled = sample_planned(engine, planned, encoded, settings, settings.batch_size, shard, meter)
        responses = decode_responses(tokenizer, sampled, eos, chat_format, settings.stop)
    write_rows(output, generation_rows(rows, planned, responses, settings.sampler))
    meter.notes["truncated"] = [count_truncated(responses), len(responses)]
    meter.write(cost)
    section = "evaluation" if stream == "evaluation" else "generation"
    sampled_by = f"policy {policy}" if policy else f"model {model}"
    work, tokens, result, warning = describe_responses(responses, settings, sampled_by, section)
    return Summary(work, tokens, "token", result, meter.seconds, warning)


if __name__ == "__main__":  # because vLLM's processes on several GPUs import this file
    run(main, joins_steps=True)
