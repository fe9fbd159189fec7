"""Send training metrics to experiment trackers through accelerate."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.config.training_settings import TrackingConfig
from prefloop.core.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKERS = ("tensorboard", "wandb", "mlflow")  # each needs the package of its name


@dataclass
class Tracking(TrackingConfig):
    """The experiment trackers of a run. Their addresses and keys are in the trackers' own environment variables."""

    run: str = "train"
    """Name of this run: experiment/method/seed/round."""
    folder: Path = Path("results/tracking")
    """The folder for trackers that write files."""


def check_trackers(trackers: tuple[str, ...]) -> None:
    """Check that trackers can be started.

    Raises:
        InputError: A tracker is unknown, or its package is not installed.
    """
    for name in trackers:
        if name not in TRACKERS:
            raise InputError(f"tracking.trackers: {name!r} is not one of {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"tracking.trackers: {name} is not installed here; run `pip install {name}`, or remove it")


def start_trackers(tracking: Tracking, accelerator: "Accelerator", earlier: list[dict[str, Any]]) -> None:
    """Start a run with each tracker, and send it the steps before an interruption."""
    if not tracking.trackers:
        return
    (tracking.folder / tracking.run).mkdir(parents=True, exist_ok=True)
    names = {"wandb": {"name": tracking.run, "dir": str(tracking.folder)}, "mlflow": {"run_name": tracking.run}}
    options = {name: value for name, value in names.items() if name in tracking.trackers}
    accelerator.init_trackers(tracking.project, init_kwargs=options)
    for metrics in earlier:
        accelerator.log(metrics, step=metrics["step"])
