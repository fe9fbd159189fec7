"""The training loop of all objectives: batches, processes, gradients, learning rate, saved states."""

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prefloop.config.training_settings import OptimizerConfig
from prefloop.core.errors import InputError
from prefloop.core.progress import Progress
from prefloop.core.seeds import rng_for, seed_for
from prefloop.models._compat import unwrapped
from prefloop.models.batching import send
from prefloop.models.distributed import gather_full, gather_rows, is_sharded, set_gradient_exchange, sum_gradients
from prefloop.models.precision import round_masters, trained_parameters
from prefloop.training.checkpoint import Stateful, TrainingCheckpoint

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim.lr_scheduler import LambdaLR

Metrics = dict[str, Any]  # metrics of one optimizer step, by their names in training.jsonl


class Batch(NamedTuple):
    """The examples of one optimizer step."""

    step: int
    """From 0."""
    epoch: int
    """From 0."""
    indices: list[int]
    """Examples of all processes, in order."""
    micro_batches: list[list[int]]
    """This process's examples. Every process has the same number of micro-batches, some of which may be empty."""

    def inputs(self, micro_batch: list[int]) -> list[int]:
        """The examples for a forward pass. For an empty micro-batch, this is the batch's first example with weight 0:
        without a backward pass, the other processes would wait for gradients forever."""
        return micro_batch or self.indices[:1]


class Objective(Stateful, Protocol):
    """What an optimizer step minimizes; the objective has the model and the examples.

    For each step the loop calls `begin_step`, `losses` for every micro-batch, and `end_step`.
    """

    stage: str
    """Name in progress messages."""
    unit: str
    """What an example is, in the singular."""

    def __len__(self) -> int:
        """Number of examples."""

    def tokens(self, indices: list[int]) -> int:
        """Tokens of a forward pass over these examples, padding included."""

    def begin_step(self, batch: Batch, rng: np.random.Generator) -> dict[int, float]:
        """The weight of each example's loss in the batch; every process returns the same ones."""

    def losses(self, micro_batch: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward pass: differentiable losses [examples], and statistics by name, each [examples]."""

    def end_step(self, batch: Batch, values: dict[str, Tensor]) -> Metrics:
        """The step's metrics, `tokens` included, from the global batch's `loss` and statistics, each [examples]."""


class StatelessObjective:
    """An objective without state of its own: only the model changes from step to step."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def optimize(
    model: nn.Module,
    objective: Objective,
    settings: OptimizerConfig,
    *,
    seed: int,
    accelerator: "Accelerator",
    on_step: Callable[[Metrics], None] | None = None,
    checkpoint: TrainingCheckpoint | None = None,
) -> list[Metrics]:
    """Train a model in place; every process has to call this.

    Args:
        model (nn.Module): The model, from `wrap_model`.
        objective (Objective): The objective, with the same model.
        settings (OptimizerConfig): Optimizer, schedule and batches.
        seed (int): Seed of the order of examples, of dropout, and of the objective's random numbers.
        accelerator (Accelerator): This process's accelerator.
        on_step (Callable | None): Called with each step's metrics.
        checkpoint (TrainingCheckpoint | None): The state from which an interrupted training resumes.

    Returns:
        list[Metrics]: One per step, including those before an interruption: the objective's metrics, and `step`,
            `epoch`, `grad_norm`, `learning_rate` and `seconds`.

    Raises:
        InputError: A loss, a statistic or a gradient is not finite.
    """
    network = unwrapped(model)
    batches = list(batch_order(len(objective), settings, seed))
    optimizer = build_optimizer(network, settings)
    schedule = build_schedule(optimizer, settings, len(batches))
    steps: list[Metrics] = []
    if checkpoint is not None:
        checkpoint.restore(network, optimizer, schedule, objective)
        steps = checkpoint.steps
    enable_adapter_dropout(model)
    done = sum(len(indices) for _, indices in batches[: len(steps)])
    total, is_silent = settings.epochs * len(objective), not accelerator.is_main_process
    with Progress(objective.stage, total, objective.unit, done=done, silent=is_silent) as progress:
        for step, (epoch, indices) in list(enumerate(batches))[len(steps) :]:
            started = time.perf_counter()
            torch.manual_seed(seed_for(seed, "dropout", step, accelerator.process_index))
            batch = Batch(step, epoch, indices, micro_batches(indices, settings, objective.tokens, accelerator))
            # The name is "beta", because only β rules use random numbers.
            weights = objective.begin_step(batch, rng_for(seed, "beta", step))
            values = accumulate_gradients(model, objective, batch, weights, accelerator)
            metrics: Metrics = {"step": step, "epoch": epoch} | objective.end_step(batch, values)
            metrics |= update_parameters(network, optimizer, schedule, settings.max_grad_norm, step)
            metrics["seconds"] = time.perf_counter() - started
            if on_step is not None:
                on_step(metrics)
            progress.update(len(indices), metrics["tokens"])
            steps.append(metrics)
            if checkpoint is not None:
                checkpoint.after_step(network, optimizer, schedule, objective)
    if checkpoint is not None:
        checkpoint.end()
    return steps


def accumulate_gradients(
    model: nn.Module, objective: Objective, batch: Batch, weights: dict[int, float], accelerator: "Accelerator"
) -> dict[str, Tensor]:
    """Add the gradient of Σ weight · loss over the examples of a global batch to the trained parameters.

    Returns:
        dict[str, Tensor]: `loss` and the objective's statistics, each [examples] of all processes in order, float32,
            on the CPU.

    Raises:
        InputError: A value is not finite.
    """
    rows, columns = [], {}
    # FSDP2 averages gradients over processes; the factor turns the average into a sum.
    scale = accelerator.num_processes if is_sharded(model) else 1
    for number, micro_batch in enumerate(batch.micro_batches):
        is_last = number == len(batch.micro_batches) - 1
        set_gradient_exchange(model, is_last, accelerator.device)
        weight = send(torch.tensor([weights[i] for i in micro_batch] or [0.0]), accelerator.device)
        losses, statistics = objective.losses(batch.inputs(micro_batch))
        ((weight * losses).sum() * scale).backward()
        columns = {"loss": losses} | statistics
        rows.append(torch.stack([column.detach() for column in columns.values()], dim=1)[: len(micro_batch)])
    if not is_sharded(model):
        sum_gradients(list(trained_parameters(model).values()), accelerator)
    values = gather_rows(torch.cat(rows), accelerator)
    if not values.isfinite().all():
        raise InputError(f"training diverged: the loss is not finite at step {batch.step}; lower the learning rate")
    return dict(zip(columns, values.T, strict=True))


def update_parameters(
    network: nn.Module, optimizer: torch.optim.Optimizer, schedule: "LambdaLR", max_grad_norm: float, step: int
) -> Metrics:
    """One optimizer step with the accumulated gradients; returns `grad_norm`, before clipping, and `learning_rate`.

    Raises:
        InputError: The gradient is not finite; the parameters are not changed.
    """
    norm = gather_full(torch.nn.utils.clip_grad_norm_(trained_parameters(network).values(), max_grad_norm)).item()
    if not math.isfinite(norm):
        raise InputError(f"training diverged: the gradient is not finite at step {step}; lower the learning rate")
    metrics = {"grad_norm": norm, "learning_rate": schedule.get_last_lr()[0]}
    optimizer.step()
    round_masters(network)
    schedule.step()
    optimizer.zero_grad()
    return metrics


def batch_order(examples: int, settings: OptimizerConfig, seed: int) -> Iterator[tuple[int, list[int]]]:
    """Epoch and indices of every global batch.

    Each epoch has a new order of all examples. Its last batch may be smaller; no example is dropped.
    """
    for epoch in range(settings.epochs):
        order = rng_for(seed, "train", epoch).permutation(examples).tolist()
        for start in range(0, examples, settings.batch_size):
            yield epoch, order[start : start + settings.batch_size]


def micro_batches(
    indices: list[int], settings: OptimizerConfig, tokens: Callable[[list[int]], int], accelerator: "Accelerator"
) -> list[list[int]]:
    """This process's part of a global batch, cut into micro-batches by examples or by tokens.

    Parts are consecutive, so that gathered rows are in the batch's order. Every process gets the same number of
    micro-batches, of which the last may be empty.

    Args:
        indices (list[int]): The batch's examples.
        settings (OptimizerConfig): The size of a micro-batch, in examples or tokens.
        tokens (Callable): The number of tokens of a forward pass over given examples.
        accelerator (Accelerator): This process's accelerator.
    """
    processes, rank, limit = accelerator.num_processes, accelerator.process_index, settings.micro_batch_tokens
    if limit is None:
        share, size = math.ceil(len(indices) / processes), settings.micro_batch_size
        part = indices[rank * share : (rank + 1) * share]
        return [part[start : start + size] for start in range(0, share, size)]
    # Every process computes the micro-batches of all parts, to know how many the others have.
    cuts = [cut_by_tokens(part, limit, tokens) for part in split_by_tokens(indices, processes, tokens)]
    return cuts[rank] + [[]] * (max(map(len, cuts)) - len(cuts[rank]))


def split_by_tokens(indices: list[int], parts: int, tokens: Callable[[list[int]], int]) -> list[list[int]]:
    """Consecutive parts with about the same number of tokens; a part may be empty."""
    counts = np.array([tokens([i]) for i in indices])
    # An example belongs to the part that contains its middle token.
    owners = (np.cumsum(counts) - counts / 2) * parts // counts.sum()
    return [[i for i, owner in zip(indices, owners, strict=True) if owner == part] for part in range(parts)]


def cut_by_tokens(indices: list[int], limit: int, tokens: Callable[[list[int]], int]) -> list[list[int]]:
    """Micro-batches of at most `limit` tokens, in order; an example with more tokens has a micro-batch of its own."""
    cut: list[list[int]] = []
    for i in indices:
        if cut and tokens([*cut[-1], i]) <= limit:
            cut[-1].append(i)
        else:
            cut.append([i])
    return cut


def build_optimizer(model: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that `settings` name, for all trained parameters."""
    trained = list(trained_parameters(model).values())
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(trained, lr=settings.learning_rate)
    # Fused on a GPU, because torch's default there needs another copy of all parameters at each step.
    fused = all(parameter.is_cuda for parameter in trained) or None
    return torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)


def build_schedule(optimizer: torch.optim.Optimizer, settings: OptimizerConfig, steps: int) -> "LambdaLR":
    """Warm-up over warmup_ratio of all `steps`, then decay.

    The first step of the warm-up already has a learning rate above 0, and the decay would reach 0 one step after the
    last step.
    """
    from torch.optim.lr_scheduler import LambdaLR

    warmup = max(1, round(settings.warmup_ratio * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup if settings.warmup_ratio > 0 else 1.0
        left = (steps - step) / max(1, steps - warmup + 1)
        shapes = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(left * math.pi))}
        return shapes[settings.schedule]

    return LambdaLR(optimizer, factor)


def enable_adapter_dropout(model: nn.Module) -> None:
    """Switch on dropout only in adapters; the base model's own would make the policy differ from its reference."""
    model.eval()
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            module.train()
