"""Policies that are stored at some steps of a training."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prefloop.core.errors import InputError
from prefloop.core.files import atomic_write
from prefloop.models.policies import Provenance
from prefloop.training.loop import Metrics
from prefloop.training.run import TrainingRun


@dataclass
class PolicySnapshots:
    """Stores the policy after given optimizer steps.

    Until the training has ended, snapshots are part of its saved state. Snakemake deletes the outputs of a failed job,
    and a training that resumes does not repeat earlier steps.

    Raises:
        InputError: The training has fewer steps.
    """

    steps: tuple[int, ...]
    """The steps, counted from 1."""
    total: int
    """Number of steps of the training."""
    training: TrainingRun
    network: nn.Module
    provenance: Provenance

    def __post_init__(self) -> None:
        if max(self.steps, default=0) > self.total:
            raise InputError(
                f"evaluation.by_checkpoint.steps: {max(self.steps)}, but this round trains {self.total} steps; lower it"
            )

    def save(self, metrics: Metrics) -> None:
        """Write a snapshot if this is one of the steps; every process has to call this after every step."""
        step = metrics["step"] + 1
        if step in self.steps:
            self.training.write_policy(self.path(step), self.network, self.provenance)

    def publish(self, folder: Path) -> None:
        """Copy all snapshots to `folder`, as checkpoint-<step>/policy.pt."""
        for step in self.steps:
            with atomic_write(folder / f"checkpoint-{step}/policy.pt", durable=True) as file:
                shutil.copyfile(self.path(step), file)

    def path(self, step: int) -> Path:
        """The path of a snapshot until it is published."""
        return self.training.checkpoint.folder / f"checkpoint-{step}.pt"
