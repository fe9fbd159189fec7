"""One round of preference training: a visible loop over optimizer steps, on accelerate and peft."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from prefloop.betas import BETAS
from prefloop.losses import LOSSES, log_ratio_margin
from prefloop.models import Lora
from prefloop.rows import InputError
from prefloop.scoring import response_logps
from prefloop.seeds import rng_for


@dataclass
class Settings:
    """How a round trains; the names are those of config's `train`."""

    parameters: Literal["lora", "full"] = "lora"
    """Train low-rank adapters, or every parameter."""
    lora: Lora = field(default_factory=Lora)
    """The adapters' shape."""
    loss: str = "dpo"
    """Word of prefloop.losses.LOSSES."""
    beta: float = 0.1
    """Strength of the pull to the reference, per nat of log-ratio margin."""
    beta_rule: str = "constant"
    """Word of prefloop.betas.BETAS."""
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """AdamW (betas .9, .999) or RMSprop (α .99), the original DPO code's."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the learning rate after warm-up, to 0 at the round's end."""
    warmup_ratio: float = 0.1
    """Share of the round's steps in which the learning rate rises; a ratio, as steps a round vary with budget."""
    epochs: int = 1
    """Passes over the round's pairs."""
    batch_size: int = 16
    """Pairs an optimizer step, over all processes and micro-batches."""
    micro_batch_size: int = 8
    """Pairs that pass through the model at once."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this 2-norm."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Arithmetic of the forward and backward pass; trained weights and optimizer stay in float32."""


@dataclass
class Pair:
    """One preference pair as token ids, with the reference's log-probabilities of both responses (nats)."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    ref_logp_chosen: float
    ref_logp_rejected: float


def build_optimizer(model, settings: Settings) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(trained, lr=settings.learning_rate)
    return torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def build_schedule(optimizer, settings: Settings, steps: int):
    """Warm-up over warmup_ratio of `steps`, then decay. The first step already moves: lr(0) is one warm-up unit."""
    from torch.optim.lr_scheduler import LambdaLR

    warmup = max(1, round(settings.warmup_ratio * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup if settings.warmup_ratio > 0 else 1.0
        left = (steps - step) / max(1, steps - warmup + 1)
        shapes = {
            "constant": 1.0,
            "linear": left,
            "cosine": 0.5 * (1 - torch.cos(torch.tensor(left * torch.pi)).item()),
        }
        return shapes[settings.schedule]

    return LambdaLR(optimizer, factor)


def batch_order(pairs: int, settings: Settings, seed: int) -> Iterator[tuple[int, list[int]]]:
    """(epoch, indices of a batch) for every optimizer step; each epoch is a new order of all pairs.

    The last batch of an epoch may be smaller. No pair is dropped.
    """
    for epoch in range(settings.epochs):
        order = rng_for(seed, "train", epoch).permutation(pairs).tolist()
        for start in range(0, pairs, settings.batch_size):
            yield epoch, order[start : start + settings.batch_size]


def train(
    model,
    pairs: list[Pair],
    settings: Settings,
    *,
    pad: int,
    seed: int,
    accelerator,
    on_step: Callable[[dict], None],
) -> dict:
    """Train `model` in place on `pairs`, call `on_step` with the metrics of each step, return the β rule's state.

    The loss of a step is the mean over its batch, whatever the micro-batches: each contributes its sum divided
    by the batch's size. Reference log-probabilities come with the pairs, so no reference model is held.
    Raises InputError if the loss stops being finite.
    """
    loss_function, beta_rule = LOSSES[settings.loss], BETAS[settings.beta_rule](settings.beta)
    batches = list(batch_order(len(pairs), settings, seed))
    optimizer = build_optimizer(model, settings)
    model, optimizer = accelerator.prepare(model, optimizer)
    schedule = build_schedule(optimizer, settings, len(batches))
    train_mode(model)
    beta = settings.beta
    for step, (epoch, indices) in enumerate(tqdm(batches, desc="train", unit="step", disable=None)):
        started, step_beta, parts = time.perf_counter(), beta, []
        for start in range(0, len(indices), settings.micro_batch_size):
            batch = [pairs[i] for i in indices[start : start + settings.micro_batch_size]]
            logps = pair_logps(model, batch, pad, accelerator)
            margins = log_ratio_margin(*logps)
            losses = loss_function(margins, step_beta)
            accelerator.backward(losses.sum() / len(indices))
            parts.append(torch.stack([losses, margins, *logps], dim=1).detach())
        values = torch.cat(parts)
        if not values.isfinite().all():
            raise InputError(f"training diverged: the loss is not finite at step {step}; lower train.learning_rate")
        beta = beta_rule.update(values[:, 1])
        grad_norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        learning_rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(
            {"step": step, "epoch": epoch}
            | step_metrics(values, step_beta)
            | {
                "grad_norm": float(grad_norm),
                "learning_rate": learning_rate,
                "tokens": sum(pair_tokens(pairs[i]) for i in indices),
                "seconds": time.perf_counter() - started,
            }
        )
    return beta_rule.state_dict()


def train_mode(model) -> None:
    """Switch on the adapters' dropout and no other: a base model's own would part the policy from its reference."""
    model.eval()
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()


def pair_logps(model, batch: list[Pair], pad: int, accelerator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logp of chosen, logp of rejected, and the reference's of both; each [pairs]. One forward pass for all."""
    prompts = [pair.prompt for pair in batch] * 2
    responses = [pair.chosen for pair in batch] + [pair.rejected for pair in batch]
    with accelerator.autocast():
        logps = response_logps(model, prompts, responses, pad)
    chosen, rejected = logps.split(len(batch))
    ref_chosen = torch.tensor([pair.ref_logp_chosen for pair in batch], device=logps.device)
    ref_rejected = torch.tensor([pair.ref_logp_rejected for pair in batch], device=logps.device)
    return chosen, rejected, ref_chosen, ref_rejected


def pair_tokens(pair: Pair) -> int:
    """Tokens that pass through the model for one pair; the prompt stands before both responses."""
    return 2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected)


def step_metrics(values: Tensor, beta: float) -> dict:
    """What training.jsonl says of a step; columns of `values` are loss, margin, logp and ref logp of w and l."""
    losses, margins, chosen, rejected, ref_chosen, ref_rejected = values.T
    return {
        "loss": losses.mean().item(),
        "rewards/chosen": (beta * (chosen - ref_chosen)).mean().item(),
        "rewards/rejected": (beta * (rejected - ref_rejected)).mean().item(),
        "rewards/margins": (beta * margins).mean().item(),
        "rewards/accuracies": (margins > 0).float().mean().item(),
        "logps/chosen": chosen.mean().item(),
        "logps/rejected": rejected.mean().item(),
        "beta": beta,
    }
