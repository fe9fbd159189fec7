"""Sample responses to prompts from a policy."""

from pathlib import Path
from typing import Annotated

import torch
from tqdm import tqdm
from tyro.conf import arg

from _program import run
from prefloop.batching import batches_by_length
from prefloop.chat import eos_ids, prompt_ids
from prefloop.costs import CostMeter
from prefloop.models import default_device, load_merged, parameter_count, resolve_dtype
from prefloop.rows import read_rows, write_rows
from prefloop.sampling import Decoding, generate
from prefloop.seeds import rng_for


def main(
    *,
    model: Path,
    policy: Path,
    prompts: Path,
    output: Path,
    cost: Path,
    seed: int,
    stream: str,
    decoding: Annotated[Decoding, arg(name="")],
    sampler: str = "policy",
    n: int = 1,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    dtype: str = "auto",
    threads: int = 1,
) -> None:
    """Sample n responses to each prompt.

    Args:
        model: Manifest of the policy's base model.
        policy: The policy that answers: a policy.pt, or the base model's manifest.
        prompts: Prompts to answer.
        output: Where the generations go, in the order of the prompts.
        cost: Where the cost goes.
        seed: The run's seed.
        stream: Name of this use of the seed, e.g. round-1/step-2; each has random numbers of its own.
        decoding: How one token follows another.
        sampler: Named in each row; which policy it means is the workflow's choice.
        n: Responses a prompt.
        max_new_tokens: Tokens after which a response is cut.
        batch_size: Responses in a batch.
        dtype: auto, bfloat16 or float32.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    device = default_device()
    meter = CostMeter("generate", parameter_count(model), device)
    network, tokenizer = load_merged(model, policy, resolve_dtype(dtype, device), device)
    rows = read_rows(prompts, ["prompt_id", "messages"])
    encoded = [prompt_ids(tokenizer, row["messages"]) for row in rows]
    eos, responses = eos_ids(tokenizer, network), {}
    batches = batches_by_length([len(ids) for ids in encoded], max(1, batch_size // n))
    for batch in tqdm(batches, desc="generate", unit="batch", disable=None):
        uniforms = torch.stack(
            [
                torch.from_numpy(
                    rng_for(seed, "generate", stream, rows[i]["prompt_id"], response).random(max_new_tokens)
                )
                for i in batch
                for response in range(n)
            ]
        )
        sampled = generate(network, [encoded[i] for i in batch], uniforms, decoding, eos, tokenizer.pad_token_id)
        for place, i in enumerate(batch):
            responses[i] = sampled[place * n : (place + 1) * n]
        meter.forward(sum(len(encoded[i]) for i in batch), sum(map(len, sampled)))
    write_rows(
        output,
        (
            {
                "prompt_id": row["prompt_id"],
                "cluster": row.get("cluster"),
                "response_id": response_id,
                "response": tokenizer.decode(ids, skip_special_tokens=True),
                "token_ids": ids,
                "sampler": sampler,
                "finish_reason": "stop" if ids[-1] in eos else "length",
                "n_tokens": len(ids),
            }
            for i, row in enumerate(rows)
            for response_id, ids in enumerate(responses[i])
        ),
    )
    print(f"generate: {len(rows)} prompts x {n} responses, {meter.tokens_out / (len(rows) * n):.1f} tokens each")
    meter.write(cost)


run(main)
