"""The loop over optimizer steps that all training shares: batches, processes, gradients, learning rate."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from prefloop.models import resolve_dtype
from prefloop.partial import Partial
from prefloop.policies import Lora
from prefloop.processes import spread, together
from prefloop.progress import Progress
from prefloop.rows import InputError, whole, write_rows
from prefloop.seeds import rng_for, seed_for
from prefloop.tracking import Tracking, check_trackers


@dataclass
class Optimisation:
    """How parameters are trained, whatever the loss; the names are those of config."""

    parameters: Literal["lora", "full"] = "lora"
    """Train low-rank adapters, or every parameter."""
    lora: Lora = field(default_factory=Lora)
    """The adapters' shape."""
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    """AdamW (betas .9, .999) or RMSprop (α .99), the original DPO code's."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the learning rate after warm-up, to 0 at the end."""
    warmup_ratio: float = 0.1
    """Share of the steps in which the learning rate rises; a ratio, as steps a round vary with budget."""
    epochs: int = 1
    """Passes over the data."""
    batch_size: int = 16
    """Examples an optimizer step, over all processes and micro-batches."""
    micro_batch_size: int = 8
    """Examples that pass through the model at once."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this 2-norm."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Arithmetic of the forward and backward pass; trained weights and optimizer stay in float32."""


def build_optimizer(model, settings: Optimisation) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(trained, lr=settings.learning_rate)
    return torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def build_schedule(optimizer, settings: Optimisation, steps: int):
    """Warm-up over warmup_ratio of `steps`, then decay. The first step already moves: lr(0) is one warm-up unit."""
    from torch.optim.lr_scheduler import LambdaLR

    warmup = max(1, round(settings.warmup_ratio * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup if settings.warmup_ratio > 0 else 1.0
        left = (steps - step) / max(1, steps - warmup + 1)
        shapes = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(left * math.pi))}
        return shapes[settings.schedule]

    return LambdaLR(optimizer, factor)


def batch_order(examples: int, settings: Optimisation, seed: int) -> Iterator[tuple[int, list[int]]]:
    """(epoch, indices of a batch) for every optimizer step; each epoch is a new order of all examples.

    The last batch of an epoch may be smaller. No example is dropped.
    """
    for epoch in range(settings.epochs):
        order = rng_for(seed, "train", epoch).permutation(examples).tolist()
        for start in range(0, examples, settings.batch_size):
            yield epoch, order[start : start + settings.batch_size]


def micro_batches(indices: list[int], size: int, accelerator) -> list[list[int]]:
    """This process's share of a global batch, cut into micro-batches of `size`.

    Shares are consecutive, so that what all processes gather, in their order, is the batch in its own. Every
    process gets equally many micro-batches, or one would wait for gradients that another never sends; where a
    batch has no more examples, they are empty.
    """
    share = math.ceil(len(indices) / accelerator.num_processes)
    mine = indices[accelerator.process_index * share : (accelerator.process_index + 1) * share]
    return [mine[start : start + size] for start in range(0, share, size)]


def backward(model, micros: list[list[int]], loss_of: Callable[[list[int]], Tensor], accelerator) -> None:
    """Add the gradient of Σ loss_of(micro-batch), over the micro-batches of all processes, to the parameters.

    Processes average their gradients, hence the factor; they exchange them once, after the last micro-batch.
    """
    for number, micro in enumerate(micros):
        last = number == len(micros) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            accelerator.backward(loss_of(micro) * accelerator.num_processes)


def gather_rows(rows: Tensor, accelerator) -> Tensor:
    """Rows [local, columns] of every process, in the order of processes: [all, columns] on the CPU, float32.

    Processes may hold different numbers of rows, none included.
    """
    local = rows.detach().float().cpu()
    if accelerator.num_processes == 1:
        return local
    from accelerate.utils import gather_object

    return torch.tensor(gather_object(local.tolist())).reshape(-1, rows.shape[1])


def global_step(
    model,
    indices: list[int],
    weight: dict[int, float],
    columns_of: Callable[[list[int]], Tensor],
    size: int,
    step: int,
    accelerator,
) -> Tensor:
    """Add the gradient of Σ weight·loss over a global batch; return its values [examples, columns] in order.

    `columns_of` runs examples forward: [examples, columns], the first of them the loss. `size` is the micro-batches'.
    Raises InputError if a value is not finite.
    """
    parts = []

    def loss_of(micro: list[int]) -> Tensor:
        columns = columns_of(micro or indices[:1])  # an empty one runs along, and counts nothing
        parts.append(columns[: len(micro)].detach())
        return (torch.tensor([weight[i] for i in micro] or [0.0], device=columns.device) * columns[:, 0]).sum()

    backward(model, micro_batches(indices, size, accelerator), loss_of, accelerator)
    values = gather_rows(torch.cat(parts), accelerator)
    check_finite(values, step)
    return values


def optimise(
    model,
    examples: int,
    settings: Optimisation,
    take_step: Callable[[torch.nn.Module, int, int, list[int]], dict],
    *,
    seed: int,
    accelerator,
    on_step: Callable[[dict], None],
    sharding: str = "none",
    partial: Partial | None = None,
    carried=None,
    stage: str = "train",
    unit: str = "pair",
) -> None:
    """Train `model` in place: for every batch `take_step(model, step, epoch, indices)`, then an optimizer step.

    `take_step` runs forward and backward over the global batch and returns its metrics, `tokens` (those of the
    whole batch) among them; `on_step` gets these with step, epoch, grad_norm, learning_rate and seconds.
    `partial` is where an interrupted training goes on from; `carried`, with state_dict and load_state_dict, is what
    `take_step` changes from step to step besides the model; `stage` and `unit`, an example's name, are for who watches.
    """
    batches = list(batch_order(examples, settings, seed))
    called = spread(model, sharding, accelerator)
    optimizer = build_optimizer(model, settings)
    schedule = build_schedule(optimizer, settings, len(batches))
    if partial is not None:
        partial.restore(model, optimizer, schedule, carried)
    done = 0 if partial is None else len(partial.steps)
    train_mode(called)
    earlier = sum(len(indices) for _, indices in batches[:done])
    silent = not accelerator.is_main_process
    with Progress(stage, settings.epochs * examples, unit, done=earlier, silent=silent) as progress:
        for step, (epoch, indices) in list(enumerate(batches))[done:]:
            started = time.perf_counter()
            torch.manual_seed(seed_for(seed, "dropout", step, accelerator.process_index))
            metrics = take_step(called, step, epoch, indices)
            grad_norm = together(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)).item()
            learning_rate = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            seconds = time.perf_counter() - started
            metrics |= {"grad_norm": grad_norm, "learning_rate": learning_rate, "seconds": seconds}
            on_step(metrics := {"step": step, "epoch": epoch} | metrics)
            progress.update(len(indices), metrics["tokens"])
            if partial is not None:
                partial.steps.append(metrics)
                partial.after_step(model, optimizer, schedule, carried)
    if partial is not None:
        partial.ended()


def start(settings: Optimisation, device: str, threads: int, seed: int, tracking: Tracking):
    """An Accelerator for this process, and the dtype of its arithmetic; seeds torch alike in every process."""
    from accelerate import Accelerator

    check_trackers(tracking.trackers)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # the launcher's word for this machine's processes
    if device == "cuda" and here > torch.cuda.device_count():
        raise InputError(f"processes: {here} on a machine whose job has {torch.cuda.device_count()} GPU(s)")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    dtype = resolve_dtype(settings.dtype, device)
    mixed = {torch.bfloat16: "bf16", torch.float32: "no"}[dtype]
    log = {"log_with": list(tracking.trackers), "project_dir": tracking.folder / tracking.run}
    return Accelerator(mixed_precision=mixed, cpu=device == "cpu", **(log if tracking.trackers else {})), dtype


def write_steps(metrics: Path, speed: Path, steps: list[dict], **where: int) -> None:
    """training.jsonl, one row a step; speed beside it, as it differs between equal runs, on one process or several."""
    apart = ("seconds", "passes")
    write_rows(metrics, (where | {k: v for k, v in step.items() if k not in apart} for step in steps))
    lines = [f"{s['step']},{s['tokens']},{s['seconds']:.3f},{s['tokens'] / s['seconds']:.1f}" for s in steps]
    with whole(speed) as partial:
        partial.write_text("\n".join(["step,tokens,seconds,tokens_per_second", *lines]) + "\n")


def train_mode(model) -> None:
    """Switch on the adapters' dropout and no other: a base model's own would part the policy from its reference."""
    model.eval()
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()


def check_finite(values: Tensor, step: int) -> None:
    """InputError if a loss or log-probability is infinite or NaN."""
    if not values.isfinite().all():
        raise InputError(f"training diverged: the loss is not finite at step {step}; lower the learning rate")
