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
from prefloop.manifests import parameter_count
from prefloop.models import default_device, load_merged, load_trainable
from prefloop.optimisation import Optimisation, start, write_steps
from prefloop.partial import Partial, work_of
from prefloop.policies import policy_content, trained_weights
from prefloop.processes import Running, checkpoint_activations
from prefloop.progress import Summary
from prefloop.rows import InputError, read_rows, sha256_of, write_tensors
from prefloop.seeds import seed_for
from prefloop.tracking import Tracking, start_trackers


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
    running: Annotated[Running, arg(name="")],
    tracking: Tracking,
    max_response_tokens: int = 512,
    seed: int = 0,
    threads: int = 1,
) -> Summary | None:
    """Fine-tune the model on the data set's chosen responses, and write it as policy.pt and as a model folder.

    The folder holds the whole model, adapters merged: later stages take it for their base model, so that their
    reference is the fine-tuned policy and not the model before it. Killed and started again it goes on from
    policy.partial/, as train does.

    Args:
        model: Manifest of the model to fine-tune.
        prompts: Training prompts with `chosen`.
        output: Where policy.pt goes.
        manifest: Where manifest.json goes, beside the fine-tuned model's files; written last.
        metrics: Where training.jsonl goes, one row an optimizer step.
        speed: Where the seconds and tokens a second of each step go, as CSV.
        cost: Where the cost goes.
        settings: How to train.
        running: How to go about it: nothing of it counts for the weights.
        tracking: Where to send the metrics besides.
        max_response_tokens: Longer responses are cut there, and then have no end-of-sequence token.
        seed: Of the order of examples and of new adapters.
        threads: CPU threads of each process.
    """
    device = default_device()
    accelerator, dtype = start(settings, device, threads, seed_for(seed, "sft"), tracking)
    meter = CostMeter("sft", parameter_count(model), device)
    work = work_of(__file__, settings, inputs=[sha256_of(model), sha256_of(prompts)], run=[seed, max_response_tokens])
    partial = Partial(output.parent / "policy.partial", work, running.save_every, accelerator)
    meter.resume(partial.earlier_seconds, partial.resumed)
    network, tokenizer = load_trainable(model, model, settings.parameters, settings.lora, dtype)
    if running.gradient_checkpointing:
        checkpoint_activations(network)
    rows = read_rows(prompts, ["prompt_id", "messages"])
    given = [row for row in rows if "chosen" in row]
    if not given:
        raise InputError(f"{prompts}: no prompt comes with a chosen response; choose another prompts.source, or no sft")
    examples = []
    for row in given:
        response = tokenizer(row["chosen"], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        response = [*response, tokenizer.eos_token_id][:max_response_tokens]
        examples.append(Example(prompt_ids(tokenizer, row["messages"]), response))
    start_trackers(tracking, accelerator, partial.steps)
    finetune(
        network,
        examples,
        settings,
        pad=tokenizer.pad_token_id,
        seed=seed_for(seed, "sft"),
        accelerator=accelerator,
        on_step=lambda metrics: accelerator.log(metrics, step=metrics["step"]),
        sharding=running.sharding,
        partial=partial,
    )
    lora = settings.lora if settings.parameters == "lora" else None
    weights = trained_weights(network, lora)
    accelerator.end_training()
    if not accelerator.is_main_process:
        return None
    meter.train(settings.epochs * sum(example.tokens for example in examples))
    steps = partial.steps
    write_steps(metrics, speed, steps)
    whence = {"lora": lora, "manifest": model, "round": 0, "seed": seed, "pairs_sha256": sha256_of(prompts)}
    write_tensors(output, policy_content(model=network, weights=weights, **whence))
    merged, _ = load_merged(model, output, torch.float32, "cpu")
    write_model(merged, tokenizer, manifest, model, "fine-tuned")
    meter.write(cost)
    partial.remove()
    return Summary(
        f"{len(examples)} responses, {len(rows) - len(given)} prompts without one, {len(steps)} steps",
        settings.epochs * len(examples),
        "response",
        f"loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f} nats a token",
        meter.seconds,
    )


run(main)
