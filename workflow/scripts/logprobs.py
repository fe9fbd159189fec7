"""Compute the log-probability of each response under the policy and its reference."""

from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from _program import run
from prefloop.config.generation_settings import LogprobsConfig
from prefloop.core.costs import CostMeter
from prefloop.core.jsonl import by_prompt, check_known, read_rows, write_rows
from prefloop.core.progress import Progress, Summary
from prefloop.core.shards import Shard
from prefloop.data.feature_rows import Key, key_of_row, write_features
from prefloop.models.batching import batches_by_length
from prefloop.models.chat import prompt_ids, read_format
from prefloop.models.devices import default_device, resolve_dtype
from prefloop.models.layer_states import FeatureReader, Reading, read_responses
from prefloop.models.loading import load_scorers
from prefloop.models.manifests import parameter_count
from prefloop.models.positions import check_positions, check_vocabulary
from prefloop.models.response_logprobs import tokens_read


def main(
    *,
    model: Path,
    policy: Path,
    reference: Path,
    prompts: Path,
    generations: Path,
    output: Path,
    cost: Path,
    settings: Annotated[LogprobsConfig, arg(name="")],
    shard: Shard,
    features: Path | None = None,
    layer: int | None = None,
    prefixes: bool = False,
    chat: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Write the log-probabilities of every response under the policy and its reference.

    Args:
        model: Manifest of the base model.
        policy: The policy before this round: a policy.pt, or the base model's manifest.
        reference: The reference of this round, in the same form.
        prompts: The prompts that were answered.
        generations: The responses.
        output: Output path for n_tokens, logp and logp_ref of each response.
        cost: Output path for the cost.
        shard: The part of the batches to score; other jobs score the rest.
        features: Output path for the responses' features, states of `model` in `layer`; not computed if not given.
        layer: The layer, from 1; by default the middle one.
        prefixes: Whether to write logp_ref_prefixes, for prefixes as long as the prompt's shorter responses.
        chat: The run's chat format, a chat.json; the template's own variables and today's date if not given.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("logprobs", parameter_count(model), default_device())
    dtype = resolve_dtype(settings.dtype, meter.device)
    models, tokenizer = load_scorers(model, policy, reference, dtype, meter.device)
    reader = FeatureReader(models, (model, policy, reference), dtype, layer) if features else None
    messages = {row["prompt_id"]: row["messages"] for row in read_rows(prompts, ["prompt_id", "messages"])}
    rows = read_rows(generations, ["prompt_id", "cluster", "response_id", "token_ids"])
    check_known(rows, messages, prompts, generations)
    check_vocabulary(model, rows, ["token_ids"], generations)
    groups, chat_format = list(by_prompt(rows).values()), read_format(chat)
    encoded = [prompt_ids(tokenizer, messages[group[0]["prompt_id"]], chat_format) for group in groups]
    lengths = [len(p) + max(len(row["token_ids"]) for row in g) for p, g in zip(encoded, groups, strict=True)]
    check_positions(model, max(lengths))
    scored, batches = {}, shard.select(batches_by_length(lengths, max(1, settings.batch_size // len(groups[0]))))
    with Progress("logprobs", sum(len(groups[i]) for batch in batches for i in batch), "response") as progress:
        for batch in batches:
            prompt_tokens = [encoded[i] for i in batch for _ in groups[i]]
            responses = [row["token_ids"] for i in batch for row in groups[i]]
            tokens = tokens_read(models.policy, prompt_tokens, responses)
            readings = read_responses(models, reader, prompt_tokens, responses, policy, prefixes)
            meter.forward((models.passes + (reader.passes if reader else 0)) * tokens)
            scored |= zip((key_of_row(row) for i in batch for row in groups[i]), readings, strict=True)
            progress.update(len(responses), tokens)
    write_readings([row for group in groups for row in group], scored, output, features)
    meter.write(cost)
    return Summary(f"{len(scored)} responses, {meter.tokens_in:,} tokens", meter.tokens_in, "token", "", meter.seconds)


def write_readings(rows: list[dict], scored: dict[Key, Reading], output: Path, features: Path | None) -> None:
    """Write logprobs.jsonl and, if a path is given, the features of the responses that this shard scored."""
    rows = [row for row in rows if key_of_row(row) in scored]
    readings = [scored[key_of_row(row)] for row in rows]
    write_rows(output, map(Reading.row, readings, rows))
    if features is not None:
        write_features(features, [reading.features for reading in readings])


run(main, joins_steps=True)
