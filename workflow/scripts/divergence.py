"""How far the policy has moved from its reference, in nats of KL divergence."""

from pathlib import Path

import numpy as np
import torch

from _program import run
from prefloop.batching import batches_by_length
from prefloop.chat import eos_ids, prompt_ids
from prefloop.costs import CostMeter
from prefloop.divergence import divergences
from prefloop.manifests import parameter_count
from prefloop.models import default_device, load_policy, reference_for, resolve_dtype
from prefloop.progress import Progress, Summary
from prefloop.rows import InputError, read_rows, write_rows
from prefloop.sampling import Decoding, Voice, generate
from prefloop.scoring import response_logits, tokens_read
from prefloop.seeds import rng_for


def main(
    *,
    model: Path,
    policy: Path,
    reference: Path,
    prompts: Path,
    output: Path,
    cost: Path,
    seed: int,
    stream: str,
    samples: int = 1,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    dtype: str = "auto",
    threads: int = 1,
) -> Summary:
    """Sample from the policy at temperature 1 and sum its exact KL divergence from the reference over positions.

    The divergence is that of the first max_new_tokens tokens: what a longer response would add is not in it.
    The policy's adapter stays unmerged, so that the same weights sample and score.

    Args:
        model: Manifest of the base model.
        policy: The policy: a policy.pt, or the base model's manifest.
        reference: The reference, likewise; the policy itself gives exactly 0.
        prompts: Prompts to answer.
        output: Where kl and log_ratio of each response go, in the order of the prompts.
        cost: Where the cost goes.
        seed: The run's seed.
        stream: Name of this use of the seed; policies of one stream sample with the same random numbers.
        samples: Responses to each prompt.
        max_new_tokens: Tokens after which a response is cut.
        batch_size: Responses sampled and scored at once; of all of them both models' logits are held.
        dtype: auto, bfloat16 or float32.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    device = default_device()
    meter = CostMeter("divergence", parameter_count(model), device)
    network, tokenizer = load_policy(model, policy, resolve_dtype(dtype, device), device)
    other, as_reference = reference_for(network, policy, reference, model, resolve_dtype(dtype, device), device)
    rows = read_rows(prompts, ["prompt_id", "messages"])
    encoded = [prompt_ids(tokenizer, row["messages"]) for row in rows]
    eos, pad = eos_ids(tokenizer, network.generation_config), tokenizer.pad_token_id

    def uniforms_of(i: int, number: int) -> torch.Tensor:
        numbers = rng_for(seed, "divergence", stream, rows[i]["prompt_id"], number)
        return torch.from_numpy(numbers.random(max_new_tokens))

    found = {}
    batches = batches_by_length(list(map(len, encoded)), max(1, batch_size // samples))
    with Progress("divergence", samples * len(rows), "response") as progress:
        for batch in batches:
            keys = [(i, number) for i in batch for number in range(samples)]
            uniforms = torch.stack([uniforms_of(*key) for key in keys])
            inputs = [encoded[i] for i in batch]
            responses = generate([Voice(network)], inputs, [samples] * len(batch), uniforms, Decoding(), eos, pad)
            answered = [encoded[i] for i, _ in keys]
            meter.forward(sum(map(len, inputs)), sum(map(len, responses)))
            with torch.no_grad():
                logits = logits_ref = response_logits(network, answered, responses, pad)
                if policy != reference:
                    with as_reference():
                        logits_ref = response_logits(other, answered, responses, pad)
                kl, log_ratio = divergences(logits, logits_ref, responses)
            tokens = tokens_read(network, answered, responses)
            meter.forward(tokens if policy == reference else 2 * tokens)
            if not (kl.isfinite().all() and log_ratio.isfinite().all()):
                raise InputError(f"{policy}: its divergence from {reference} is not finite; the policy has diverged")
            found |= dict(zip(keys, zip(responses, kl.tolist(), log_ratio.tolist(), strict=True), strict=True))
            progress.update(len(keys), sum(map(len, responses)))
    write_rows(
        output,
        (
            {
                "prompt_id": rows[i]["prompt_id"],
                "response_id": number,
                "n_tokens": len(ids),
                "kl": kl,
                "log_ratio": log_ratio,
                "response": tokenizer.decode(ids, skip_special_tokens=True),
                "finish_reason": "stop" if ids[-1] in eos else "length",
            }
            for (i, number), (ids, kl, log_ratio) in sorted(found.items())
        ),
    )
    kl, log_ratio = (np.array([row[column] for row in found.values()]) for column in (1, 2))
    meter.write(cost)
    return Summary(
        f"{len(found)} responses to {len(rows)} prompts",
        len(found),
        "response",
        f"{kl.mean():.3f} nats (sd {kl.std():.3f}), log-ratio {log_ratio.mean():.3f} (sd {log_ratio.std():.3f})",
        meter.seconds,
    )


run(main)
