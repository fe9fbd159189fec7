"""Sample responses to prompts from the policy, the reference, or mixtures of both."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
from tyro.conf import arg

from _program import run
from prefloop.batching import batches_by_length
from prefloop.chat import eos_ids, load_tokenizer, prompt_ids
from prefloop.costs import CostMeter
from prefloop.engines import Transformers, engine_for
from prefloop.manifests import parameter_count, trusted
from prefloop.models import default_device, generation_config, resolve_dtype
from prefloop.progress import Progress, Summary
from prefloop.rows import InputError, choice, has_pair, read_rows, write_rows
from prefloop.samplers import SAMPLERS, Component, Sampling
from prefloop.sampling import Decoding
from prefloop.seeds import rng_for, seed_for
from prefloop.shards import Shard
from prefloop.vllm_engine import Vllm, VllmSettings

Wanted = tuple[int, int, Component]  # prompt's place, response's number, what the response comes from


def main(
    *,
    model: Path,
    prompts: Path,
    output: Path,
    cost: Path,
    seed: int,
    stream: str,
    sampling: Annotated[Sampling, arg(name="")],
    decoding: Annotated[Decoding, arg(name="")],
    vllm: VllmSettings,
    shard: Shard,
    engine: Literal["auto", "transformers", "vllm"] = "auto",
    policy: Path | None = None,
    reference: Path | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    dtype: str = "auto",
    threads: int = 1,
) -> Summary:
    """Sample n responses to each prompt.

    Args:
        model: Manifest of the policy's base model.
        prompts: Prompts to answer.
        output: Where the generations go, in the order of the prompts.
        cost: Where the cost goes.
        seed: The run's seed.
        stream: Name of this use of the seed, e.g. round-1/step-2; each has random numbers of its own.
        sampling: Who answers.
        decoding: How one token follows another.
        vllm: How vLLM uses the machine.
        shard: Which of the batches to answer, and leave the others to other jobs.
        engine: What computes; auto is vllm where there is one built for a GPU that is there, else transformers.
        policy: The policy: a policy.pt, or the base model's manifest; where the sampler asks for it.
        reference: The reference, likewise.
        max_new_tokens: Tokens after which a response is cut.
        batch_size: Responses in a batch of transformers.
        dtype: auto, bfloat16 or float32.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("generate", parameter_count(model), default_device())
    rows = read_rows(prompts, ["prompt_id", "messages"])
    wanted, sampler = [], choice(SAMPLERS, sampling.sampler, "generation.sampler")
    for i, row in enumerate(rows):
        coins = rng_for(seed, "sampler", stream, row["prompt_id"]).random(sampling.n).tolist()
        components = sampler(sampling.n, coins, sampling.mixp)
        wanted += [(i, number, component) for number, component in enumerate(components)]
    tokenizer = load_tokenizer(model.parent, trusted(model))
    if sampling.sampler == "dataset":
        mine = set(shard.take(range(len(rows))))
        found = given_responses(tokenizer, rows, [one for one in wanted if one[0] in mine], prompts)
    else:
        encoded = [prompt_ids(tokenizer, row["messages"]) for row in rows]
        eos, place = eos_ids(tokenizer, generation_config(model)), resolve_dtype(dtype, meter.device)
        files = {"policy": policy, "reference": reference}
        chosen = meter.notes["engine"] = engine_for(engine, sampling)
        if chosen == "vllm":
            responder = Vllm(model, files, eos, place, vllm, max(map(len, encoded)) + max_new_tokens)
            signal.signal(signal.SIGTERM, responder.end)
        else:
            responder = Transformers(model, files, eos, tokenizer.pad_token_id, place, meter.device)

        def seed_of(i: int, number: int) -> int:
            return seed_for(seed, "generate", stream, rows[i]["prompt_id"], number)

        found = {}
        for component in dict.fromkeys(component for _, _, component in wanted):
            part = [(i, number) for i, number, c in wanted if c == component]
            ids = sample(
                responder, component, encoded, part, seed_of, decoding, max_new_tokens, batch_size, shard, meter
            )
            for key, response in ids.items():
                text = tokenizer.decode(response, skip_special_tokens=True)
                found[key] = response, text, "stop" if response[-1] in eos else "length"
    write_rows(
        output,
        (
            {
                "prompt_id": rows[i]["prompt_id"],
                "cluster": rows[i].get("cluster"),
                "response_id": number,
                "response": found[i, number][1],
                "token_ids": found[i, number][0],
                "sampler": sampling.sampler,
                "component": component.name,
                "finish_reason": found[i, number][2],
                "n_tokens": len(found[i, number][0]),
            }
            for i, number, component in wanted
            if (i, number) in found
        ),
    )
    tokens = sum(len(ids) for ids, _, _ in found.values())
    meter.write(cost)
    what = f"{len(rows)} prompts, {len(found)} responses by {sampling.sampler}, {tokens:,} tokens"
    return Summary(what, tokens, "token", seconds=meter.seconds)


def sample(
    responder: Transformers | Vllm,
    component: Component,
    encoded: list[list[int]],
    part: list[tuple[int, int]],
    seed_of: Callable[[int, int], int],
    decoding: Decoding,
    max_new_tokens: int,
    batch_size: int,
    shard: Shard,
    meter: CostMeter,
) -> dict[tuple[int, int], list[int]]:
    """Token ids of the responses `part`, (prompt's place, response's number), of a component: this shard's batches."""
    found, numbers = {}, {}
    for i, number in part:
        numbers.setdefault(i, []).append(number)
    places = list(numbers)
    lengths = [len(encoded[i]) for i in places]
    batches = shard.take(batches_by_length(lengths, max(1, batch_size // max(map(len, numbers.values())))))
    if responder.takes_all and batches:
        batches = [[b for batch in batches for b in batch]]
    total = sum(len(numbers[places[b]]) for batch in batches for b in batch)
    with Progress(f"generate ({component.name})", total, "response") as progress:
        for batch in batches:
            keys = [(places[b], number) for b in batch for number in numbers[places[b]]]
            counts = [len(numbers[places[b]]) for b in batch]
            seeds = [seed_of(*key) for key in keys]
            inputs = [encoded[places[b]] for b in batch]
            sampled = responder.answer(component, inputs, counts, seeds, decoding, max_new_tokens)
            found |= dict(zip(keys, sampled, strict=True))
            passes, tokens = responder.passes(component), sum(map(len, sampled))
            meter.forward(passes * sum(map(len, inputs)), tokens)
            meter.forward((passes - 1) * tokens)
            progress.update(len(keys), tokens)
    return found


def given_responses(
    tokenizer, rows: list[dict], wanted: list[Wanted], prompts: Path
) -> dict[tuple[int, int], tuple[list[int], str, str]]:
    """(token ids, text, finish reason) of the data set's own responses, whole and with their EOS."""
    without = [row["prompt_id"] for row in rows if not has_pair(row)]
    if without:
        raise InputError(f"{prompts}: prompt {without[0]} has no responses of its own, which sampler dataset needs")
    found = {}
    for i, number, component in wanted:
        text = rows[i][component.name]
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids.append(tokenizer.eos_token_id)  # the only one: what stands in the text is text
        found[i, number] = ids, text, "stop"
    return found


if __name__ == "__main__":  # vLLM's processes on several GPUs import this file
    run(main)
