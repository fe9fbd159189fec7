"""Load, train, save and resume tiny policies in shards, in all processes that run this; the first writes the results.

Run with `python -m torch.distributed.run --standalone --nproc-per-node 2 tests/helpers/two_process_storage.py FOLDER`.
FOLDER/cases.json has arguments of `load_trainable` by name, and FOLDER/whole has the saved state of one process.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow/scripts"))

from accelerate.utils import gather_object  # noqa: E402

import two_processes  # noqa: E402
from prefloop.config.training_settings import TrainConfig  # noqa: E402
from prefloop.models import loading  # noqa: E402
from prefloop.models.distributed import gather_full, is_read_here, wrap_model  # noqa: E402
from prefloop.models.options import Lora  # noqa: E402
from prefloop.models.policies import trained_weights  # noqa: E402
from prefloop.training.checkpoint import TrainingCheckpoint, fingerprint  # noqa: E402
from prefloop.training.run import start_accelerator  # noqa: E402
from prefloop.training.tracking import Tracking  # noqa: E402
from train_policy import train_policy  # noqa: E402

SETTINGS = TrainConfig(parameters="full", beta_rule="batch", learning_rate=1e-3, epochs=4, batch_size=4)
LORA = Lora(r=4)


class Killed(BaseException):
    """Simulates SIGKILL: none of our code runs after it, and only the files remain."""


def refuse(*_):
    raise AssertionError("only the first process may read weights")


def loaded(accelerator, manifest: str, policy: str, parameters: str, dtype: str) -> dict:
    """Return a sharded model's parameters, every process's buffers, and how many weights each process gathers."""
    reads = is_read_here("fsdp2", accelerator)
    own = loading.load_base, loading.load_full
    if not reads:
        loading.load_base, loading.load_full = refuse, refuse
    torch.manual_seed(0)
    arguments = Path(manifest), Path(policy), parameters, LORA, getattr(torch, dtype)
    network, _ = loading.load_trainable(*arguments, reads_weights=reads)
    loading.load_base, loading.load_full = own
    model = wrap_model(network, "fsdp2", accelerator, getattr(torch, dtype))
    weights = trained_weights(model, LORA if parameters == "lora" else None, keep=reads)
    return {
        "parameters": {name: gather_full(p).clone() for name, p in model.named_parameters()},
        "trained": [name for name, p in model.named_parameters() if p.requires_grad],
        "buffers": gather_object([{name: buffer.clone() for name, buffer in model.named_buffers()}]),
        "kept": gather_object([sum(tensor.numel() for tensor in weights.values())]),
    }


def trained(
    manifest: Path, folder: Path, sharding: str, kill_at: int | None = None, accelerator=None
) -> tuple[list, dict, bool]:
    """Train from the state in `folder`.

    Returns:
        Steps without times, weights, and whether the restored state has been released.
    """
    accelerator = accelerator or start_accelerator("cpu", Tracking())
    network, _ = loading.load_trainable(
        manifest, manifest, "full", LORA, torch.float32, is_read_here(sharding, accelerator)
    )
    checkpoint = TrainingCheckpoint(folder, fingerprint(__file__, SETTINGS, {}), 1, accelerator)

    def on_step(metrics: dict) -> None:
        if metrics["step"] == kill_at:
            raise Killed

    options = {"accelerator": accelerator, "sharding": sharding, "on_step": on_step, "checkpoint": checkpoint}
    try:
        steps, _ = train_policy(network, two_processes.PAIRS, SETTINGS, **options)
    except Killed:
        accelerator.wait_for_everyone()  # the files are now as if all processes had been killed at this step
        return [], {}, False
    weights = {name: gather_full(p).clone() for name, p in network.named_parameters()}
    return [{k: v for k, v in step.items() if k != "seconds"} for step in steps], weights, checkpoint.state is None


def outcomes(folder: Path, accelerator) -> dict:
    cases = json.loads((folder / "cases.json").read_text())
    manifest = Path(cases["full"][0])
    result: dict = {"loaded": {name: loaded(accelerator, *case) for name, case in cases.items()}}
    result["timeout"] = accelerator.init_handler.timeout.total_seconds()
    for name, kills in {"undisturbed": [], "killed": [2, 5], "shards": [5], "damaged": [5]}.items():
        for kill_at in kills:
            trained(manifest, folder / name, "fsdp2", kill_at, accelerator)
        if name in ("undisturbed", "killed"):
            result[name] = trained(manifest, folder / name, "fsdp2", None, accelerator)
    result["from whole"] = trained(manifest, folder / "whole", "fsdp2", None, accelerator)
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator = start_accelerator("cpu", Tracking())
    result = outcomes(Path(sys.argv[1]), accelerator)
    if accelerator.is_main_process:
        torch.save(result, Path(sys.argv[1], "out.pt"))
    accelerator.end_training()  # a gloo thread that is still running at exit can abort the process
