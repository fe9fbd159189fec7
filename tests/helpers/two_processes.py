"""Train the tiny policy under every β rule, whole and sharded, in as many processes as this runs in; the first writes
what came out.

`python -m torch.distributed.run --standalone --nproc-per-node 2 tests/helpers/two_processes.py MANIFEST OUT.pt`
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow/scripts"))

from prefloop.betas import BETAS, Risk, Schedule  # noqa: E402
from prefloop.models import add_adapter, load_base  # noqa: E402
from prefloop.policies import Lora  # noqa: E402
from prefloop.processes import checkpoint_activations, together  # noqa: E402
from prefloop.training import Pair, Settings, train  # noqa: E402

# Seven pairs in batches of four: of the second batch's three, two processes get two and one; in micro-batches of one
# the second process's last is empty.
TOKENS = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44], [12, 1], [50, 51, 1], [61, 20], [8, 30, 31, 1]]
PAIRS = [
    Pair([0, 10 + i, 20], chosen, rejected, -20.0 - i, -15.0 + i, 1.0 + 0.1 * i, 0.0)
    for i, (chosen, rejected) in enumerate(zip(TOKENS, TOKENS[::-1], strict=True))
    if chosen != rejected
] + [Pair([0, 3], [4, 1], [5, 6, 1], -9.0, -11.0, 1.0, 0.5)]


def settings_of(rule: str, parameters: str, micro_batch_size: int) -> Settings:
    return Settings(
        parameters=parameters,
        lora=Lora(r=4),
        beta_rule=rule,
        beta_schedule=Schedule((0.1, 0.3, 0.2), "epoch"),
        beta_risk=Risk(warmup=2),
        learning_rate=1e-3,
        epochs=3,
        batch_size=4,
        micro_batch_size=micro_batch_size,
    )


def outcomes(manifest: Path) -> dict:
    """By rule, parameters and micro-batch size: the trained weights, the log and the rule's state."""
    found = {}
    cases = [(rule, "lora", size, "none") for rule in BETAS for size in (1, 2)] + [("batch", "full", 2, "none")]
    cases += [("batch", "full", 1, "fsdp2"), ("risk", "lora", 2, "fsdp2"), ("constant", "full", 2, "fsdp2")]
    for rule, parameters, size, sharding in cases:
        torch.manual_seed(0)
        model, _ = load_base(manifest, torch.float32)
        model = model if parameters == "full" else add_adapter(model, Lora(r=4))
        if sharding == "fsdp2":  # both at once: layers are computed again while others' shards are on their way
            checkpoint_activations(model)
        steps: list[dict] = []
        settings, accelerator = settings_of(rule, parameters, size), Accelerator(cpu=True)
        state = train(model, PAIRS, settings, pad=2, seed=1, accelerator=accelerator, on_step=steps.append,
                      sharding=sharding)  # fmt: skip
        weights = {name: together(p).clone() for name, p in model.named_parameters() if p.requires_grad}
        name = f"{rule} {parameters} {size}" + (" fsdp2" if sharding == "fsdp2" else "")
        sharded = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
        found[name] = {"weights": weights, "steps": steps, "state": state, "sharded": sharded}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    result, accelerator = outcomes(Path(sys.argv[1])), Accelerator(cpu=True)
    if accelerator.is_main_process:
        torch.save(result, sys.argv[2])
    accelerator.end_training()  # a gloo thread that still runs when Python ends can abort the process
