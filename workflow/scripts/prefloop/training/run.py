"""Set-up and outputs that all training programs share."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from prefloop.config.training_settings import OptimizerConfig
from prefloop.core.costs import CostMeter
from prefloop.core.csv_files import write_cells
from prefloop.core.errors import InputError
from prefloop.core.files import write_tensors
from prefloop.core.jsonl import write_rows
from prefloop.models.devices import default_device, resolve_dtype
from prefloop.models.distributed import checkpoint_activations, communication, is_read_here, wrap_model
from prefloop.models.manifests import parameter_count
from prefloop.models.options import RuntimeConfig
from prefloop.models.policies import Provenance, policy_content, trained_weights
from prefloop.training.checkpoint import TrainingCheckpoint
from prefloop.training.loop import Metrics, Objective, optimize
from prefloop.training.tracking import Tracking, check_trackers, start_trackers

if TYPE_CHECKING:
    from accelerate import Accelerator

INTERRUPT_SECONDS = 30  # from Ctrl-C until a process that still runs is ended
NOT_LOGGED = ("seconds", "passes")  # metrics that differ between identical runs, or with the number of processes


@dataclass
class TrainingFiles:
    """The files that a training writes in addition to the model."""

    metrics: Path
    """training.jsonl, with one row per optimizer step."""
    speed: Path
    """A CSV of seconds and tokens per second of each step, which differ between identical runs."""
    cost: Path
    """The cost of the training."""


class TrainingJob(NamedTuple):
    """Facts about a training that its log, cost and saved state need."""

    stage: str
    """The program's name."""
    model: Path
    """Manifest of the model to train."""
    partial: Path
    """Folder of the state from which an interrupted training continues."""
    fingerprint: str
    """The fingerprint that a saved state must have (`checkpoint.fingerprint`)."""
    seed: int
    """torch's seed before the model is loaded; it determines new adapters."""
    threads: int
    """CPU threads per process."""
    columns: dict[str, int] = {}  # noqa: RUF012 - never changed
    """Columns to add to every row of training.jsonl."""


@dataclass
class TrainingRun:
    """One process's view of a training; made by `training_run`."""

    settings: OptimizerConfig
    runtime: RuntimeConfig
    tracking: Tracking
    meter: CostMeter
    accelerator: "Accelerator"
    dtype: torch.dtype
    """The dtype of the forward and backward pass, and of frozen weights."""
    checkpoint: TrainingCheckpoint
    steps: list[Metrics] = field(default_factory=list)
    """Metrics of all steps, after `optimize`."""

    @property
    def reads_weights(self) -> bool:
        """Whether this process has to load the weights of the model that it passes to `prepare`."""
        return is_read_here(self.runtime.sharding, self.accelerator)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move the model to this process's device, and shard it if so configured."""
        if self.runtime.gradient_checkpointing:
            checkpoint_activations(model)
        return wrap_model(model, self.runtime.sharding, self.accelerator, self.dtype)

    def optimize(
        self, model: nn.Module, objective: Objective, seed: int, on_step: Callable[[Metrics], None] | None = None
    ) -> list[Metrics]:
        """Run the training loop (`loop.optimize`) and send metrics to the trackers; returns all steps' metrics."""
        start_trackers(self.tracking, self.accelerator, self.checkpoint.steps)

        def log(metrics: Metrics) -> None:
            self.accelerator.log(metrics, step=metrics["step"])
            if on_step is not None:
                on_step(metrics)

        self.steps = optimize(
            model,
            objective,
            self.settings,
            seed=seed,
            accelerator=self.accelerator,
            on_step=log,
            checkpoint=self.checkpoint,
        )
        return self.steps

    def write_policy(
        self, path: Path, network: nn.Module, provenance: Provenance, beta_state: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Write the current policy as a policy.pt; every process has to call this, but only the first one writes.

        Returns:
            dict[str, Tensor]: The `trained_weights`, which are empty in the other processes.
        """
        lora = self.settings.lora if self.settings.parameters == "lora" else None
        weights = trained_weights(network, lora, self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            write_tensors(path, policy_content(network, weights, lora, provenance, beta_state))
        return weights

    def end_processes(self) -> bool:
        """End communication between processes, and return whether this is the first one, which writes the outputs."""
        self.accelerator.end_training()
        return self.accelerator.is_main_process


@contextlib.contextmanager
def training_run(
    job: TrainingJob,
    files: TrainingFiles,
    settings: OptimizerConfig,
    runtime: RuntimeConfig,
    tracking: Tracking,
) -> Iterator[TrainingRun]:
    """Set up a training, and write its metrics and cost after the block has written the model.

    The block loads the model, calls `prepare` and `optimize`, gathers the trained weights, and calls `end_processes`.
    Then its first process writes the model. The saved state is deleted last, so that after a failure of the block the
    next attempt resumes.

    Raises:
        InputError: A tracker is missing, or there are more processes than GPUs.
    """
    check_trackers(tracking.trackers)
    meter = CostMeter(job.stage, parameter_count(job.model), default_device())
    dtype = resolve_dtype(settings.dtype, meter.device)
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    accelerator = start_accelerator(meter.device, tracking)
    checkpoint = TrainingCheckpoint(
        job.partial, job.fingerprint, runtime.save_every, accelerator, runtime.save_every_minutes
    )
    meter.resume(checkpoint.earlier_seconds, checkpoint.resumed)
    run = TrainingRun(settings, runtime, tracking, meter, accelerator, dtype, checkpoint)
    yield run
    if accelerator.is_main_process:
        meter.train(sum(step["tokens"] for step in run.steps))
        meter.forward(sum((step.get("passes", 1) - 1) * step["tokens"] for step in run.steps))
        write_steps(files.metrics, files.speed, run.steps, job.columns)
        meter.write(files.cost)
        checkpoint.remove()


def start_accelerator(device: str, tracking: Tracking) -> "Accelerator":
    """An Accelerator for this process, without autocast, because the model computes in its weights' dtype.

    Raises:
        InputError: There are more processes than GPUs.
    """
    from accelerate import Accelerator

    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # set by the launcher
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        end_after_interrupt()
    if device == "cuda" and local_processes > torch.cuda.device_count():
        raise InputError(
            f"processes: {local_processes} on a machine whose job has {torch.cuda.device_count()} GPU(s); lower it, or "
            "request more: --resources gpu=N --set-resources train:gpu=N, in a profile `gpu:`"
        )
    trackers = {"log_with": list(tracking.trackers), "project_dir": tracking.folder / tracking.run}
    return Accelerator(
        mixed_precision="no",
        cpu=device == "cpu",
        kwargs_handlers=communication(),  # type: ignore[arg-type]  # a list of its subclasses
        **(trackers if tracking.trackers else {}),
    )


def end_after_interrupt(seconds: float = INTERRUPT_SECONDS) -> None:
    """End this process some seconds after Ctrl-C, even if its main thread never returns to Python.

    The main thread may wait on a GPU for a process that has already ended, and the launcher would wait for it.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)  # Python's C handler writes the number of each signal

    def wait() -> None:
        while os.read(reader, 1)[0] != signal.SIGINT:
            pass
        time.sleep(seconds)
        os._exit(128 + signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def first_to_last(steps: list[Metrics], name: str, digits: int = 4) -> str:
    """A metric at the first and last step: `0.6931 -> 0.4120`."""
    return f"{steps[0][name]:.{digits}f} -> {steps[-1][name]:.{digits}f}"


def write_steps(metrics: Path, speed: Path, steps: list[Metrics], columns: dict[str, int]) -> None:
    """Write training.jsonl, one row per step, and the speed of each step as CSV."""
    write_rows(metrics, (columns | {k: v for k, v in step.items() if k not in NOT_LOGGED} for step in steps))
    rows = ([s["step"], s["tokens"], f"{s['seconds']:.3f}", f"{s['tokens'] / s['seconds']:.1f}"] for s in steps)
    write_cells(speed, ["step", "tokens", "seconds", "tokens_per_second"], rows)
