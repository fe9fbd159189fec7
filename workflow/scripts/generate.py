"""Sample responses to prompts from the policy, the reference, or mixtures of both."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from tqdm import tqdm
from tyro.conf import arg

from _program import run
from prefloop.batching import batches_by_length
from prefloop.chat import eos_ids, load_tokenizer, prompt_ids
from prefloop.costs import CostMeter
from prefloop.models import default_device, load_merged, load_policy, parameter_count, reference_for, resolve_dtype
from prefloop.rows import InputError, has_pair, read_json, read_rows, write_rows
from prefloop.samplers import SAMPLERS, Component, Sampling
from prefloop.sampling import Decoding, Voice, generate
from prefloop.seeds import rng_for
from prefloop.shards import Shard

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
    shard: Shard,
    policy: Path | None = None,
    reference: Path | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    dtype: str = "auto",
    threads: int = 1,
) -> None:
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
        shard: Which of the batches to answer, and leave the others to other jobs.
        policy: The policy: a policy.pt, or the base model's manifest; where the sampler asks for it.
        reference: The reference, likewise.
        max_new_tokens: Tokens after which a response is cut.
        batch_size: Responses in a batch.
        dtype: auto, bfloat16 or float32.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("generate", parameter_count(model), default_device())
    rows = read_rows(prompts, ["prompt_id", "messages"])
    wanted = []
    for i, row in enumerate(rows):
        coins = rng_for(seed, "sampler", stream, row["prompt_id"]).random(sampling.n).tolist()
        components = SAMPLERS[sampling.sampler](sampling.n, coins, sampling.mixp)
        wanted += [(i, number, component) for number, component in enumerate(components)]
    if sampling.sampler == "dataset":
        mine = set(shard.take(range(len(rows))))
        found = given_responses(model, rows, [one for one in wanted if one[0] in mine], prompts)
    else:
        speakers = Speakers(model, policy, reference, resolve_dtype(dtype, meter.device), meter.device)

        def uniforms_of(i: int, number: int) -> torch.Tensor:
            numbers = rng_for(seed, "generate", stream, rows[i]["prompt_id"], number)
            return torch.from_numpy(numbers.random(max_new_tokens))

        found = {}
        for component in dict.fromkeys(component for _, _, component in wanted):
            part = [(i, number) for i, number, c in wanted if c == component]
            found |= sample(speakers, component, rows, part, uniforms_of, decoding, batch_size, shard, meter)
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
    print(f"generate: {len(rows)} prompts, {len(found)} responses by {sampling.sampler}, {tokens:,} tokens")
    meter.write(cost)


class Speakers:
    """Policy and reference as voices for each component, in as few copies of the weights as it takes.

    A component of one model runs on that model alone, its adapter merged; one at a time is in memory. A mixture
    runs on both, which share the base weights where the policy is an adapter.
    """

    def __init__(self, model: Path, policy: Path | None, reference: Path | None, dtype: torch.dtype, device: str):
        self.model, self.place = model, (dtype, device)
        self.files = {"policy": policy, "reference": reference}
        self.loaded: set[Path] = set()
        self.voice_of: dict[Path, Voice] = {}

    def voices(self, component: Component) -> list[Voice]:
        """Load what the component needs; in round 1 policy and reference are one, and so is what they mix to."""
        weights = {name: weight for name in self.files if (weight := getattr(component, name)) != 0}
        files = {self.files[name] for name in weights}
        if files != self.loaded:
            self.voice_of = {}  # free what was loaded before
            self.voice_of, self.loaded = self.load(files), files
        if len(files) == 1:
            return list(self.voice_of.values())
        return [self.voice_of[self.files[name]]._replace(weight=weight) for name, weight in weights.items()]

    def load(self, files: set[Path]) -> dict[Path, Voice]:
        if len(files) == 1:
            network, self.tokenizer = load_merged(self.model, *files, *self.place)
            return {file: Voice(network) for file in files}
        policy, reference = self.files["policy"], self.files["reference"]
        network, self.tokenizer = load_policy(self.model, policy, *self.place)
        other, context = reference_for(network, policy, reference, self.model, *self.place)
        return {policy: Voice(network), reference: Voice(other, context=context)}


def sample(
    speakers: Speakers,
    component: Component,
    rows: list[dict],
    part: list[tuple[int, int]],
    uniforms_of: Callable[[int, int], torch.Tensor],
    decoding: Decoding,
    batch_size: int,
    shard: Shard,
    meter: CostMeter,
) -> dict[tuple[int, int], tuple[list[int], str, str]]:
    """(token ids, text, finish reason) of the responses `part`, (prompt's place, response's number), of a component.

    Those of this shard's batches, that is.
    """
    voices = speakers.voices(component)
    tokenizer, found = speakers.tokenizer, {}
    eos = eos_ids(tokenizer, voices[0].model)
    numbers: dict[int, list[int]] = {}
    for i, number in part:
        numbers.setdefault(i, []).append(number)
    places, encoded = list(numbers), [prompt_ids(tokenizer, rows[i]["messages"]) for i in numbers]
    batches = batches_by_length(list(map(len, encoded)), max(1, batch_size // max(map(len, numbers.values()))))
    for batch in tqdm(shard.take(batches), desc=f"generate ({component.name})", unit="batch", disable=None):
        keys = [(places[b], number) for b in batch for number in numbers[places[b]]]
        counts = [len(numbers[places[b]]) for b in batch]
        uniforms = torch.stack([uniforms_of(*key) for key in keys])
        inputs = [encoded[b] for b in batch]
        sampled = generate(voices, inputs, counts, uniforms, decoding, eos, tokenizer.pad_token_id)
        for key, ids in zip(keys, sampled, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            found[key] = ids, text, "stop" if ids[-1] in eos else "length"
        meter.forward(len(voices) * sum(map(len, inputs)), sum(map(len, sampled)))
        meter.forward((len(voices) - 1) * sum(map(len, sampled)))
    return found


def given_responses(
    model: Path, rows: list[dict], wanted: list[Wanted], prompts: Path
) -> dict[tuple[int, int], tuple[list[int], str, str]]:
    """The data set's own responses, whole and with their EOS, as `sample` returns sampled ones."""
    tokenizer = load_tokenizer(model.parent, read_json(model).get("trust_remote_code", False))
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


run(main)
