"""Metrics of training sent to an experiment tracker as well, through accelerate; nothing else depends on it."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from prefloop.rows import InputError

TRACKERS = ("tensorboard", "wandb", "mlflow")  # each needs the package of its name


@dataclass
class Tracking:
    """Where metrics go besides training.jsonl; a tracker's address and key come from its own environment variables."""

    trackers: tuple[str, ...] = ()
    """Words of prefloop.tracking.TRACKERS; none sends nothing."""
    project: str = "prefloop"
    """Name of the project (wandb), experiment (mlflow) or folder (tensorboard) that runs are gathered under."""
    run: str = "train"
    """Name of this run: experiment/method/seed/round."""
    folder: Path = Path("results/tracking")
    """Where a tracker that writes files puts them."""


def check_trackers(trackers: tuple[str, ...]) -> None:
    """InputError for a tracker that is unknown or whose package is not installed."""
    for name in trackers:
        if name not in TRACKERS:
            raise InputError(f"tracking.trackers: {name!r} is none of {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"tracking.trackers: {name} is not installed here; run `pip install {name}`, or take it out"
            )


def start_trackers(tracking: Tracking, accelerator, earlier: list[dict]) -> None:
    """Begin a run with each tracker, and tell it the steps of a part of the training that was interrupted."""
    if not tracking.trackers:
        return
    (tracking.folder / tracking.run).mkdir(parents=True, exist_ok=True)
    names = {"wandb": {"name": tracking.run, "dir": str(tracking.folder)}, "mlflow": {"run_name": tracking.run}}
    accelerator.init_trackers(tracking.project, init_kwargs={k: v for k, v in names.items() if k in tracking.trackers})
    for metrics in earlier:
        accelerator.log(metrics, step=metrics["step"])
