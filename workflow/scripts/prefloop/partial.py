"""The state of a training that has not ended: killed at any moment, it goes on from there to the same bytes.

It lies in a folder beside what the training will write, and belongs to one piece of work: other pairs, another start,
other settings or other code begin anew. torch's generator is not part of it, as every step seeds it by name.
"""

import dataclasses
import hashlib
import json
import shutil
import signal
import time
from pathlib import Path

import torch

from prefloop.processes import anywhere, apart, together
from prefloop.rows import InputError, read_tensors, write_tensors
from prefloop.sources import code_files

FORMAT = "prefloop-partial-1"


def work_of(program: str, settings, **parts) -> str:
    """A name for everything that a training's result depends on: its program's code, its settings, its inputs."""
    code = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in code_files(program)]
    text = json.dumps([code, dataclasses.asdict(settings), parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Partial:
    """What an interrupted training left in `folder` if it was this `work`, and the place where this one saves its own.

    It is made before anything costly, as it counts the seconds from then on. `every` is the number of optimizer steps
    between two saved states. From `restore` to `ended` SIGTERM saves the state after the step and exits.
    """

    def __init__(self, folder: Path, work: str, every: int, accelerator):
        self.folder, self.work, self.every, self.accelerator = Path(folder), work, every, accelerator
        self.started, self.terminated = time.perf_counter(), False
        self.state, why_not = read_state(self.folder / "state.pt", work)
        self.steps: list[dict] = self.state["steps"] if self.state else []
        self.resumed = self.state["resumed"] + 1 if self.state else 0
        accelerator.wait_for_everyone()  # all have read
        if accelerator.is_main_process:
            if self.state is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            for torn in self.folder.glob(".*.partial"):  # a save that was killed
                torn.unlink(missing_ok=True)
            if self.state:
                print(f"{self.folder}: goes on after step {len(self.steps)}, interrupted {self.resumed} time(s)")
            elif why_not:
                print(f"{self.folder}: starts anew, as the state there {why_not}")

    @property
    def earlier_seconds(self) -> float:
        """What the parts before this one took, up to their last saved state."""
        return self.state["seconds"] if self.state else 0.0

    def restore(self, model, optimizer, schedule, carried) -> None:
        """Put the saved state, if there is one, where it came from; the model and optimizer may be sharded."""
        signal.signal(signal.SIGTERM, self.terminate)
        if self.state is None:
            return
        with torch.no_grad():
            for name, parameter in trained(model).items():
                parameter.copy_(apart(self.state["weights"][name], parameter))
                saved = self.state["optimizer"][name]
                # AdamW counts its steps in a number on the CPU; all else has the parameter's shape.
                optimizer.state[parameter] = {k: apart(v, parameter) if v.dim() else v for k, v in saved.items()}
        schedule.load_state_dict(self.state["schedule"])
        for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
            group["lr"] = rate  # which the schedule sets at its next step only
        if carried is not None:
            carried.load_state_dict(self.state["carried"])

    def terminate(self, *_) -> None:
        self.terminated = True

    def ended(self) -> None:
        """From here on SIGTERM ends the process at once; what is saved stays until `remove`."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def after_step(self, model, optimizer, schedule, carried) -> None:
        """Save where it is time to, or where SIGTERM has come to any process: then exit, as after any signal."""
        terminated = anywhere(self.terminated, self.accelerator)
        if terminated or len(self.steps) % self.every == 0:
            self.save(model, optimizer, schedule, carried)
        if terminated:
            if self.accelerator.is_main_process:
                print(f"{self.folder}: SIGTERM, saved after step {len(self.steps)}", flush=True)
            self.accelerator.wait_for_everyone()
            raise SystemExit(128 + signal.SIGTERM)

    def save(self, model, optimizer, schedule, carried) -> None:
        """Write the state, whole or not at all; shards come together, so that any number of processes can go on."""
        parameters = trained(model)
        state = {
            "format": FORMAT,
            "work": self.work,
            "weights": {name: together(p) for name, p in parameters.items()},
            "optimizer": {
                name: {key: together(value) for key, value in optimizer.state[p].items()}
                for name, p in parameters.items()
            },
            "schedule": schedule.state_dict(),
            "carried": None if carried is None else carried.state_dict(),
            "steps": self.steps,
            "seconds": self.earlier_seconds + time.perf_counter() - self.started,
            "resumed": self.resumed,
        }
        if self.accelerator.is_main_process:
            write_tensors(self.folder / "state.pt", state)

    def remove(self) -> None:
        """Delete the folder once everything it was kept for is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def trained(model) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def read_state(path: Path, work: str) -> tuple[dict | None, str]:
    """The state saved at `path` if it is of `work`, else None and, where something lies there, why it is not used.

    Nothing in the file is executed.
    """
    if not path.exists():
        return None, ""
    try:
        state = read_tensors(path)
    except InputError:
        return None, "is not readable"
    if state.get("format") != FORMAT:
        return None, f"is not of format {FORMAT}"
    return (state, "") if state["work"] == work else (None, "is of other pairs, settings, code or another start")
