"""Train the policy on one round's pairs."""

import shutil
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from _program import run
from prefloop.chat import prompt_ids
from prefloop.costs import CostMeter
from prefloop.models import (
    add_adapter,
    add_trained,
    default_device,
    is_trained,
    load_base,
    parameter_count,
    read_policy,
    resolve_dtype,
    write_policy,
)
from prefloop.rows import InputError, read_rows, sha256_of, whole, write_rows
from prefloop.seeds import seed_for
from prefloop.training import Pair, Settings, pair_tokens, train


def main(
    *,
    model: Path,
    policy: Path,
    pairs: Path,
    output: Path,
    metrics: Path,
    speed: Path,
    cost: Path,
    seed: int,
    round: int,
    settings: Annotated[Settings, arg(name="")],
    threads: int = 1,
) -> None:
    """Train the policy on one round's pairs, and write it as policy.pt and, with LoRA, as a PEFT folder adapter/.

    Args:
        model: Manifest of the base model.
        policy: The policy before this round: a policy.pt, or the base model's manifest.
        pairs: The round's pairs, with the reference's log-probabilities.
        output: Where policy.pt goes.
        metrics: Where training.jsonl goes, one row an optimizer step.
        speed: Where the seconds and tokens a second of each step go, as CSV: they differ between equal runs.
        cost: Where the cost goes.
        seed: The run's seed.
        round: Round, from 1.
        settings: How to train.
        threads: CPU threads.
    """
    from accelerate import Accelerator

    torch.set_num_threads(threads)
    torch.manual_seed(seed_for(seed, "train", round))
    device = default_device()
    dtype = resolve_dtype(settings.dtype, device)
    mixed = {torch.bfloat16: "bf16", torch.float32: "no"}[dtype]
    accelerator = Accelerator(mixed_precision=mixed, cpu=device == "cpu")
    meter = CostMeter("train", parameter_count(model), device)
    network, tokenizer = load_trainable(model, policy, settings, dtype)
    examples = [
        to_pair(row, tokenizer) for row in read_rows(pairs, ["messages", "logp_ref_chosen", "logp_ref_rejected"])
    ]
    steps: list[dict] = []
    beta_state = train(
        network,
        examples,
        settings,
        pad=tokenizer.pad_token_id,
        seed=seed_for(seed, "train", round),
        accelerator=accelerator,
        on_step=steps.append,
    )
    meter.train(settings.epochs * sum(map(pair_tokens, examples)))
    lora = settings.lora if settings.parameters == "lora" else None
    replace_adapter(output.parent / "adapter", network if lora is not None else None)
    write_speed(speed, steps)
    write_rows(metrics, ({"round": round} | {k: v for k, v in step.items() if k != "seconds"} for step in steps))
    write_policy(
        output,
        model=network,
        lora=lora,
        manifest=model,
        round=round,
        seed=seed,
        beta_state=beta_state,
        pairs_sha256=sha256_of(pairs),
    )
    first, last = steps[0], steps[-1]
    print(
        f"train: {len(examples)} pairs, {len(steps)} steps, loss {first['loss']:.4f} -> {last['loss']:.4f}, "
        f"accuracy {first['rewards/accuracies']:.2f} -> {last['rewards/accuracies']:.2f}"
    )
    meter.write(cost)


def load_trainable(manifest: Path, policy: Path, settings: Settings, dtype: torch.dtype):
    """The policy before this round with the parameters to train in float32, the frozen ones in `dtype`."""
    saved = read_policy(policy) if is_trained(policy) else None
    full = settings.parameters == "full"
    network, tokenizer = load_base(manifest, torch.float32 if full else dtype)
    if saved is not None:
        if (saved["adapter"] is None) != full:
            raise InputError(
                f"{policy}: not trained with train.parameters {settings.parameters}; start that method anew"
            )
        network = add_trained(network, saved, manifest, policy)
    elif not full:
        network = add_adapter(network, settings.lora)
    return network, tokenizer


def replace_adapter(folder: Path, network) -> None:
    """Put the trained adapter where an older one may lie, under its name only when whole; none if all was trained."""
    partial = folder.with_name(".adapter.partial")
    for stale in (folder, partial):
        shutil.rmtree(stale, ignore_errors=True)
    if network is not None:
        network.save_pretrained(partial)
        partial.rename(folder)


def to_pair(row: dict, tokenizer) -> Pair:
    return Pair(
        prompt=prompt_ids(tokenizer, row["messages"]),
        chosen=row["token_ids_chosen"],
        rejected=row["token_ids_rejected"],
        ref_logp_chosen=row["logp_ref_chosen"],
        ref_logp_rejected=row["logp_ref_rejected"],
    )


def write_speed(path: Path, steps: list[dict]) -> None:
    with whole(path) as partial:
        lines = [f"{s['step']},{s['tokens']},{s['seconds']:.3f},{s['tokens'] / s['seconds']:.1f}" for s in steps]
        partial.write_text("\n".join(["step,tokens,seconds,tokens_per_second", *lines]) + "\n")


run(main)
