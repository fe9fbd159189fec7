"""Compute how probable each response is under the policy and under its reference."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from _program import run
from prefloop.config.generation_settings import LogprobsConfig
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.jsonl import by_prompt, check_known, read_rows, write_rows
from prefloop.core.progress import Progress, Summary
from prefloop.core.shards import Shard
from prefloop.models.batching import batches_by_length
from prefloop.models.chat import prompt_ids, read_format
from prefloop.models.devices import default_device, resolve_dtype
from prefloop.models.loading import load_scorers
from prefloop.models.manifests import parameter_count
from prefloop.models.positions import check_positions, check_vocabulary
from prefloop.models.response_logprobs import response_logprobs, tokens_read

# (logp, logp_ref) in nats by (prompt_id, response_id).
Scored = dict[tuple[str, int], tuple[float, float]]


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
    chat: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Log-probabilities of every response under the policy and under its reference.

    Args:
        model: Manifest of the base model.
        policy: The policy before this round: a policy.pt, or the base model's manifest.
        reference: The reference of this round, likewise.
        prompts: The prompts that were answered.
        generations: The responses.
        output: Where n_tokens, logp and logp_ref of each response go.
        cost: Where the cost goes.
        shard: Which of the batches to score.
        chat: The run's chat format, a chat.json; the template's own variables and today's date if not given.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("logprobs", parameter_count(model), default_device())
    dtype = resolve_dtype(settings.dtype, meter.device)
    models, tokenizer = load_scorers(model, policy, reference, dtype, meter.device)
    messages = {row["prompt_id"]: row["messages"] for row in read_rows(prompts, ["prompt_id", "messages"])}
    rows = read_rows(generations, ["prompt_id", "cluster", "response_id", "token_ids"])
    check_known(rows, messages, prompts, generations)
    check_vocabulary(model, rows, ["token_ids"], generations)
    groups, chat_format = list(by_prompt(rows).values()), read_format(chat)
    encoded = [prompt_ids(tokenizer, messages[group[0]["prompt_id"]], chat_format) for group in groups]
    lengths = [len(p) + max(len(row["token_ids"]) for row in g) for p, g in zip(encoded, groups, strict=True)]
    check_positions(model, max(lengths))
    scored: Scored = {}
    batches = shard.select(batches_by_length(lengths, max(1, settings.batch_size // len(groups[0]))))
    with Progress("logprobs", sum(len(groups[i]) for batch in batches for i in batch), "response") as progress:
        for batch in batches:
            prompt_tokens = [encoded[i] for i in batch for _ in groups[i]]
            responses = [row["token_ids"] for i in batch for row in groups[i]]
            tokens = tokens_read(models.policy, prompt_tokens, responses)
            logps, logps_ref = models.read(partial(response_logprobs, prompts=prompt_tokens, responses=responses))
            meter.forward(models.passes * tokens)
            if not (logps.isfinite().all() and logps_ref.isfinite().all()):
                raise InputError(f"{policy}: a response has no finite log-probability; the policy has diverged")
            keys = [(row["prompt_id"], row["response_id"]) for i in batch for row in groups[i]]
            scored |= dict(zip(keys, zip(logps.tolist(), logps_ref.tolist(), strict=True), strict=True))
            progress.update(len(responses), tokens)
    write_rows(output, to_rows(groups, scored))
    meter.write(cost)
    what = f"{len(scored)} responses, {meter.tokens_in:,} tokens"
    return Summary(what, meter.tokens_in, "token", seconds=meter.seconds)


def to_rows(groups: list[list[dict]], scored: Scored) -> Iterator[dict]:
    """Rows of logprobs.jsonl, of the responses that this shard scored."""
    for row in (row for group in groups for row in group):
        key = row["prompt_id"], row["response_id"]
        if key in scored:
            logp, logp_ref = scored[key]
            ids = {name: row[name] for name in ("prompt_id", "cluster", "response_id")}
            yield ids | {"n_tokens": len(row["token_ids"]), "logp": logp, "logp_ref": logp_ref}


run(main, joins_steps=True)
