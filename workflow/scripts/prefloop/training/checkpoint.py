"""The saved state of an unfinished training. A training that was killed at any moment resumes to the same bytes.

The state is a folder next to the training's outputs. It belongs to one fingerprint: with other pairs, another initial
policy, other settings or other code, the training starts from the beginning. torch's generator is not saved, because
every step seeds it by name. Weights and optimizer state are in the file state.pt or, if they are sharded, in a folder
that it names.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from prefloop.core.code_dependencies import code_hash
from prefloop.core.errors import InputError
from prefloop.core.files import read_tensors, write_tensors
from prefloop.core.own_functions import is_own, own_code
from prefloop.models.distributed import gather_full, shard_like, true_anywhere
from prefloop.models.precision import round_masters, trained_parameters
from prefloop.training.sharded_state import read_shards, write_shards

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim.lr_scheduler import LRScheduler

STATE_FORMAT = "prefloop-partial-3"
STATE = {"fingerprint": str, "steps": list, "seconds": float, "resumed": int, "shards": str}
STATE |= dict.fromkeys(("weights", "optimizer", "schedule", "extra_state"), dict)

SHARDS = re.compile(r"shards-\d+")  # names of folders with shards


class Stateful(Protocol):
    """An object with state that changes from step to step, such as an objective."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""


def fingerprint(program: str, settings: Any, parts: dict[str, Any]) -> str:
    """A hash of everything that a training's result depends on.

    Args:
        program (str): Path of the program; the hash includes its code and the library code that it imports.
        settings (Any): A dataclass of settings; the hash includes the code of the user's functions that it names.
        parts (dict[str, Any]): Inputs and arguments, as plain values.
    """
    values = dataclasses.asdict(settings)
    own = {text: own_code(text) for text in texts_in(values) if is_own(text)}
    text = json.dumps([code_hash(Path(program)), own, values, parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def texts_in(value: object) -> Iterator[str]:
    """Yield all texts in nested settings, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.items() if isinstance(value, dict) else value:
            yield from texts_in(item)


class TrainingCheckpoint:
    """The saved state of a training.

    Create it before any costly work, because it counts the seconds from then on. From `restore` to `end`, SIGTERM saves
    the state after the current step and exits.

    Args:
        folder (Path): Folder of the state. A state with another fingerprint is deleted.
        fingerprint (str): From `fingerprint`.
        every (int): Optimizer steps between two saves.
        accelerator (Accelerator): This process's accelerator.
        minutes (float | None): If given, the time between two saves instead.
    """

    def __init__(
        self, folder: Path, fingerprint: str, every: int, accelerator: "Accelerator", minutes: float | None = None
    ) -> None:
        self.folder, self.fingerprint, self.accelerator = Path(folder), fingerprint, accelerator
        self.every, self.minutes, self.is_terminated = every, minutes, False
        self.started = self.saved = time.perf_counter()
        self.state, reason = read_state(self.folder / "state.pt", fingerprint)
        self.steps: list[dict[str, Any]] = self.state["steps"] if self.state else []
        self.resumed = self.state["resumed"] + 1 if self.state else 0
        # Seconds of earlier attempts, up to the last saved state.
        self.earlier_seconds: float = self.state["seconds"] if self.state else 0.0
        accelerator.wait_for_everyone()  # until all have read it
        if accelerator.is_main_process:
            if self.state is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            for partial in self.folder.glob(".*.partial"):  # left by a save that was killed
                partial.unlink(missing_ok=True)
            self.remove_shards(self.state["shards"] if self.state else "")
            if self.state:
                print(f"{self.folder}: resumes after step {len(self.steps)}, interrupted {self.resumed} time(s)")
            elif reason:
                print(f"{self.folder}: starts from the beginning, because the state there {reason}")

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: "LRScheduler", extra_state: Stateful
    ) -> None:
        """Load the saved state, if there is one, into these objects; model and optimizer may be sharded."""
        signal.signal(signal.SIGTERM, self.terminate)
        if self.state is None:
            return
        state, self.state = self.state, None  # not needed afterwards
        parameters = trained_parameters(model)
        if state["shards"]:
            read_shards(self.folder / state["shards"], parameters, optimizer)
        is_fused = bool(optimizer.defaults.get("fused"))
        with torch.no_grad():
            for name, parameter in parameters.items() if not state["shards"] else ():
                parameter.copy_(shard_like(state["weights"][name], parameter))
                optimizer.state[parameter] = restored(state["optimizer"][name], parameter, is_fused)
        round_masters(model)
        schedule.load_state_dict(state["schedule"])
        for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
            group["lr"] = rate  # the schedule sets it only at its next step
        extra_state.load_state_dict(state["extra_state"])

    def terminate(self, *_: Any) -> None:
        """Handle SIGTERM: the loop stops after the current step."""
        self.is_terminated = True

    def end(self) -> None:
        """Let SIGTERM end the process immediately again; the saved state is kept until `remove`."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def after_step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: "LRScheduler", extra_state: Stateful
    ) -> None:
        """Save if it is time to, or if any process has received SIGTERM.

        Raises:
            SystemExit: After SIGTERM, with the exit code that a shell reports for SIGTERM.
        """
        minutes = (time.perf_counter() - self.saved) / 60
        is_due = len(self.steps) % self.every == 0 if self.minutes is None else minutes >= self.minutes
        is_terminated, is_due = true_anywhere([self.is_terminated, is_due], self.accelerator)
        if is_terminated or is_due:
            self.save(model, optimizer, schedule, extra_state)
        if is_terminated:
            if self.accelerator.is_main_process:
                print(f"{self.folder}: SIGTERM, saved after step {len(self.steps)}", flush=True)
            self.accelerator.wait_for_everyone()
            raise SystemExit(128 + signal.SIGTERM)

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: "LRScheduler", extra_state: Stateful
    ) -> None:
        """Write the state atomically, so that any number of processes can continue.

        Each process writes its shards. Without shards, only the first process writes.
        """
        parameters, is_main = trained_parameters(model), self.accelerator.is_main_process
        self.saved, shards = time.perf_counter(), ""
        if any(hasattr(parameter, "full_tensor") for parameter in parameters.values()):
            shards = f"shards-{len(self.steps)}"
            write_shards(self.folder / shards, parameters, optimizer)
        if not is_main:
            return
        whole = {} if shards else parameters
        state = {
            "format": STATE_FORMAT,
            "fingerprint": self.fingerprint,
            "shards": shards,
            "weights": {name: gather_full(p) for name, p in whole.items()},
            "optimizer": {
                name: {key: gather_full(value) for key, value in optimizer.state[p].items()}
                for name, p in whole.items()
            },
            "schedule": schedule.state_dict(),
            "extra_state": extra_state.state_dict(),
            "steps": self.steps,
            "seconds": self.earlier_seconds + time.perf_counter() - self.started,
            "resumed": self.resumed,
        }
        write_tensors(self.folder / "state.pt", state)
        self.remove_shards(shards)

    def remove_shards(self, keep: str) -> None:
        """Delete folders of shards, except `keep`."""
        for folder in self.folder.glob("shards-*"):
            if folder.name != keep:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Delete the saved state, once the training's outputs are written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def restored(saved: dict[str, Tensor], parameter: nn.Parameter, is_fused: bool) -> dict[str, Tensor]:
    """A parameter's saved optimizer state, moved to the device where the optimizer expects it.

    This is the parameter's device. If the parameter is sharded, the state is this process's shard. AdamW's step counter
    is a scalar: fused AdamW expects it on the parameter's device, other optimizers on the CPU.
    """
    device = parameter.device if is_fused else torch.device("cpu")
    return {key: shard_like(value, parameter) if value.dim() else value.to(device) for key, value in saved.items()}


def read_state(path: Path, fingerprint: str) -> tuple[dict[str, Any] | None, str]:
    """Read a saved state without executing code in it.

    Returns:
        tuple: The state, or None if there is none with this fingerprint; and the reason why an existing file is not
            used.
    """
    if not path.exists():
        return None, ""
    try:
        state = read_tensors(path)
    except InputError:
        return None, "is not readable"
    if state.get("format") != STATE_FORMAT:
        return None, f"is not of format {STATE_FORMAT}"
    if [name for name, kind in STATE.items() if not isinstance(state.get(name), kind)]:
        return None, "is damaged"
    if state["shards"] and not SHARDS.fullmatch(state["shards"]):
        return None, "is damaged"
    if state["fingerprint"] != fingerprint:
        return None, "was made with other pairs, settings or code, or from another initial policy"
    return state, ""
