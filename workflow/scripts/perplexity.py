"""How probable policy and reference find each response: what preference perplexity is made of."""

from pathlib import Path

import torch

from _program import run
from prefloop.batching import batches_by_length
from prefloop.chat import prompt_ids
from prefloop.costs import CostMeter
from prefloop.manifests import parameter_count
from prefloop.models import default_device, load_policy, reference_for, resolve_dtype
from prefloop.progress import Progress, Summary
from prefloop.rows import InputError, by_prompt, check_known, read_rows, write_rows
from prefloop.scoring import response_logps, tokens_read
from prefloop.shards import Shard


def main(
    *,
    model: Path,
    policy: Path,
    reference: Path,
    prompts: Path,
    generations: Path,
    output: Path,
    cost: Path,
    shard: Shard,
    batch_size: int = 64,
    dtype: str = "auto",
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
        shard: Which of the batches to score, and leave the others to other jobs.
        batch_size: Responses in a batch; the responses of a prompt stay together.
        dtype: auto, bfloat16 or float32.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    device = default_device()
    meter = CostMeter("perplexity", parameter_count(model), device)
    network, tokenizer = load_policy(model, policy, resolve_dtype(dtype, device), device)
    other, as_reference = reference_for(network, policy, reference, model, resolve_dtype(dtype, device), device)
    messages = {row["prompt_id"]: row["messages"] for row in read_rows(prompts, ["prompt_id", "messages"])}
    rows = read_rows(generations, ["prompt_id", "cluster", "response_id", "token_ids"])
    check_known(rows, messages, prompts, generations)
    groups = list(by_prompt(rows).values())
    encoded = [prompt_ids(tokenizer, messages[group[0]["prompt_id"]]) for group in groups]
    lengths = [len(p) + max(len(row["token_ids"]) for row in g) for p, g in zip(encoded, groups, strict=True)]
    scored = {}
    batches = shard.take(batches_by_length(lengths, max(1, batch_size // len(groups[0]))))
    with Progress("perplexity", sum(len(groups[i]) for batch in batches for i in batch), "response") as progress:
        for batch in batches:
            prompt_tokens = [encoded[i] for i in batch for _ in groups[i]]
            responses = [row["token_ids"] for i in batch for row in groups[i]]
            tokens = tokens_read(network, prompt_tokens, responses)
            with torch.no_grad():
                logps = logps_ref = response_logps(network, prompt_tokens, responses, tokenizer.pad_token_id)
                meter.forward(tokens)
                if policy != reference:
                    with as_reference():
                        logps_ref = response_logps(other, prompt_tokens, responses, tokenizer.pad_token_id)
                    meter.forward(tokens)
            if not (logps.isfinite().all() and logps_ref.isfinite().all()):
                raise InputError(f"{policy}: a response has no finite log-probability; the policy has diverged")
            keys = [(row["prompt_id"], row["response_id"]) for i in batch for row in groups[i]]
            scored |= dict(zip(keys, zip(logps.tolist(), logps_ref.tolist(), strict=True), strict=True))
            progress.update(len(responses), tokens)
    write_rows(
        output,
        (
            {
                "prompt_id": row["prompt_id"],
                "cluster": row["cluster"],
                "response_id": row["response_id"],
                "n_tokens": len(row["token_ids"]),
                "logp": scored[row["prompt_id"], row["response_id"]][0],
                "logp_ref": scored[row["prompt_id"], row["response_id"]][1],
            }
            for group in groups
            for row in group
            if (row["prompt_id"], row["response_id"]) in scored
        ),
    )
    meter.write(cost)
    what = f"{len(scored)} responses, {meter.tokens_in:,} tokens"
    return Summary(what, meter.tokens_in, "token", seconds=meter.seconds)


run(main)
