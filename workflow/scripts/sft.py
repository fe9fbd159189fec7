"""Supervised fine-tuning on the chosen responses: where the policy starts and what its reference is."""

from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from _program import run
from prefloop.chat import prompt_ids
from prefloop.costs import CostMeter
from prefloop.fetch import write_model
from prefloop.finetuning import Example, finetune
from prefloop.models import default_device, load_merged, load_trainable, parameter_count, write_policy
from prefloop.optimisation import Optimisation, start, write_steps
from prefloop.rows import InputError, read_rows, sha256_of
from prefloop.seeds import seed_for


def main(
    *,
    model: Path,
    prompts: Path,
    output: Path,
    manifest: Path,
    metrics: Path,
    speed: Path,
    cost: Path,
    settings: Annotated[Optimisation, arg(name="")],
    max_response_tokens: int = 512,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Fine-tune the model on the data set's chosen responses, and write it as policy.pt and as a model folder.

    The folder holds the whole model, adapters merged: later stages take it for their base model, so that their
    reference is the fine-tuned policy and not the model before it.

    Args:
        model: Manifest of the model to fine-tune.
        prompts: Training prompts with `chosen`.
        output: Where policy.pt goes.
        manifest: Where manifest.json goes, beside the fine-tuned model's files; written last.
        metrics: Where training.jsonl goes, one row an optimizer step.
        speed: Where the seconds and tokens a second of each step go, as CSV.
        cost: Where the cost goes.
        settings: How to train.
        max_response_tokens: Longer responses are cut there, and then have no end-of-sequence token.
        seed: Of the order of examples and of new adapters.
        threads: CPU threads of each process.
    """
    device = default_device()
    accelerator, dtype = start(settings, device, threads, seed_for(seed, "sft"))
    meter = CostMeter("sft", parameter_count(model), device)
    network, tokenizer = load_trainable(model, model, settings.parameters, settings.lora, dtype)
    rows = read_rows(prompts, ["prompt_id", "messages"])
    given = [row for row in rows if "chosen" in row]
    if not given:
        raise InputError(f"{prompts}: no prompt comes with a chosen response; choose another prompts.source, or no sft")
    examples = []
    for row in given:
        response = tokenizer(row["chosen"], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        response = [*response, tokenizer.eos_token_id][:max_response_tokens]
        examples.append(Example(prompt_ids(tokenizer, row["messages"]), response))
    steps: list[dict] = []
    finetune(
        network,
        examples,
        settings,
        pad=tokenizer.pad_token_id,
        seed=seed_for(seed, "sft"),
        accelerator=accelerator,
        on_step=steps.append,
    )
    if not accelerator.is_main_process:
        return
    meter.train(settings.epochs * sum(example.tokens for example in examples))
    write_steps(metrics, speed, steps)
    lora = settings.lora if settings.parameters == "lora" else None
    write_policy(output, model=network, lora=lora, manifest=model, round=0, seed=seed, pairs_sha256=sha256_of(prompts))
    merged, _ = load_merged(model, output, torch.float32, "cpu")
    write_model(merged, tokenizer, manifest, model, "fine-tuned")
    print(
        f"sft: {len(examples)} responses, {len(rows) - len(given)} prompts without one, {len(steps)} steps, "
        f"loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f} nats a token"
    )
    meter.write(cost)


run(main)
