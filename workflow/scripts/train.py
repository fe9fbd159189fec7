"""Train the policy on one round's pairs."""

import math
import shutil
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.chat import prompt_ids
from prefloop.costs import CostMeter
from prefloop.losses import asks_for
from prefloop.manifests import parameter_count
from prefloop.models import default_device, load_trainable
from prefloop.optimisation import start, write_steps
from prefloop.partial import Partial, work_of
from prefloop.policies import is_trained, policy_content, read_policy, replace_adapter, trained_weights
from prefloop.processes import Running, checkpoint_activations
from prefloop.progress import Summary
from prefloop.rows import InputError, read_rows, sha256_of, whole, write_tensors
from prefloop.seeds import seed_for
from prefloop.tracking import Tracking, start_trackers
from prefloop.training import Pair, Settings, train

NEEDED = ["token_ids_chosen", "token_ids_rejected", "logp_ref_chosen", "logp_ref_rejected"]  # of every pair
NEEDED += ["messages", "reward_chosen", "reward_rejected"]


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
    running: Annotated[Running, arg(name="")],
    tracking: Tracking,
    carry_beta: bool = True,
    checkpoints: tuple[int, ...] = (),
    threads: int = 1,
) -> Summary | None:
    """Train the policy on one round's pairs, and write it as policy.pt and, with LoRA, as a PEFT folder adapter/.

    Runs as one process, or as several under torchrun or `accelerate launch`, to the same weights. Until it has
    ended, policy.partial/ beside policy.pt holds its state; killed and started again it goes on from there.

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
        running: How to go about it: nothing of it counts for the weights.
        tracking: Where to send the metrics besides.
        carry_beta: Go on with the β rule's state of the round before, instead of starting it anew.
        checkpoints: Optimizer steps after which the policy is kept too, as checkpoint-<step>/policy.pt beside output.
        threads: CPU threads of each process.
    """
    device = default_device()
    accelerator, dtype = start(settings, device, threads, seed_for(seed, "train", round), tracking)
    meter = CostMeter("train", parameter_count(model), device)
    inputs = [sha256_of(file) for file in (model, policy, pairs)]
    work = work_of(__file__, settings, inputs=inputs, run=[seed, round, carry_beta, checkpoints])
    partial = Partial(output.parent / "policy.partial", work, running.save_every, accelerator)
    meter.resume(partial.earlier_seconds, partial.resumed)
    network, tokenizer = load_trainable(model, policy, settings.parameters, settings.lora, dtype)
    if running.gradient_checkpointing:
        checkpoint_activations(network)
    examples = [to_pair(row, tokenizer, settings.loss) for row in read_rows(pairs, NEEDED)]
    lora = settings.lora if settings.parameters == "lora" else None
    whence = {"lora": lora, "manifest": model, "round": round, "seed": seed, "pairs_sha256": sha256_of(pairs)}
    total = settings.epochs * math.ceil(len(examples) / settings.batch_size)
    if max(checkpoints, default=0) > total:
        raise InputError(
            f"evaluation.by_checkpoint.steps: {max(checkpoints)}, but this round trains {total} steps; lower it"
        )
    start_trackers(tracking, accelerator, partial.steps)

    def keep(path: Path, beta_state: dict | None = None) -> dict:
        """Write the policy as it is now and return its weights; every process takes part, the first one writes."""
        weights = trained_weights(network, lora)
        if accelerator.is_main_process:
            write_tensors(path, policy_content(model=network, weights=weights, beta_state=beta_state, **whence))
        return weights

    def on_step(metrics: dict) -> None:
        accelerator.log(metrics, step=metrics["step"])
        if metrics["step"] + 1 in checkpoints:
            keep(partial.folder / f"checkpoint-{metrics['step'] + 1}.pt")

    beta_state = train(
        network,
        examples,
        settings,
        round=round,
        pad=tokenizer.pad_token_id,
        seed=seed_for(seed, "train", round),
        accelerator=accelerator,
        on_step=on_step,
        beta_state=read_policy(policy)["beta_state"] if carry_beta and is_trained(policy) else None,
        sharding=running.sharding,
        partial=partial,
    )
    weights = keep(output, beta_state)
    accelerator.end_training()
    if not accelerator.is_main_process:
        return None
    steps = partial.steps
    meter.train(sum(step["tokens"] for step in steps))
    meter.forward(sum((step["passes"] - 1) * step["tokens"] for step in steps))
    replace_adapter(output.parent / "adapter", network, weights if lora is not None else None)
    write_steps(metrics, speed, steps, round=round)
    for step in checkpoints:  # only now: Snakemake deletes what a job that failed had written
        with whole(output.parent / f"checkpoint-{step}/policy.pt") as file:
            shutil.copyfile(partial.folder / f"checkpoint-{step}.pt", file)
    first, last = steps[0], steps[-1]
    meter.write(cost)
    partial.remove()
    return Summary(
        f"round {round}, {len(examples)} pairs, {len(steps)} steps",
        settings.epochs * len(examples),
        "pair",
        f"loss {first['loss']:.4f} -> {last['loss']:.4f}, "
        f"accuracy {first['rewards/accuracies']:.2f} -> {last['rewards/accuracies']:.2f}",
        meter.seconds,
    )


def to_pair(row: dict, tokenizer, loss: str) -> Pair:
    return Pair(
        prompt=prompt_ids(tokenizer, row["messages"]),
        chosen=row["token_ids_chosen"],
        rejected=row["token_ids_rejected"],
        logp_ref_chosen=row["logp_ref_chosen"],
        logp_ref_rejected=row["logp_ref_rejected"],
        reward_chosen=row["reward_chosen"],
        reward_rejected=row["reward_rejected"],
        explored=row.get("token_ids_explored") if "logp_explored" in asks_for(loss) else None,
    )


run(main)
