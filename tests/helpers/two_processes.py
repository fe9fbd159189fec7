"""Train the tiny policy with every β rule, unsharded and sharded, in all processes that run this; the first writes.

Run with
`python -m torch.distributed.run --standalone --nproc-per-node 2 tests/helpers/two_processes.py MANIFEST OUT.pt`.
"""

import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow/scripts"))

from prefloop.config.training_settings import TrainConfig  # noqa: E402
from prefloop.methods.beta_config import BetaScheduleConfig, RiskConfig  # noqa: E402
from prefloop.methods.beta_rules import BETAS
from prefloop.methods.losses import LOSSES  # noqa: E402
from prefloop.models import distributed  # noqa: E402
from prefloop.models.distributed import checkpoint_activations, gather_full  # noqa: E402
from prefloop.models.loading import load_trainable  # noqa: E402
from prefloop.models.options import Lora  # noqa: E402
from prefloop.models.precision import trained_parameters  # noqa: E402
from prefloop.training.preference import TokenizedPair  # noqa: E402
from train_policy import train_policy  # noqa: E402

# Seven pairs in batches of four. Of the second batch's three pairs, the first process gets two and the second one.
# In micro-batches of one pair, the second process's last micro-batch is empty.
TOKENS = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44], [12, 1], [50, 51, 1], [61, 20], [8, 30, 31, 1]]
PAIRS = [
    TokenizedPair([0, 10 + i, 20], chosen, rejected, -20.0 - i, -15.0 + i, 1.0 + 0.1 * i, 0.0)
    for i, (chosen, rejected) in enumerate(zip(TOKENS, TOKENS[::-1], strict=True))
    if chosen != rejected
] + [TokenizedPair([0, 3], [4, 1], [5, 6, 1], -9.0, -11.0, 1.0, 0.5)]


def settings_of(
    rule: str, parameters: str, micro_batch_size: int, micro_batch_tokens: int | None, loss: str
) -> TrainConfig:
    return TrainConfig(
        loss=loss,
        parameters=parameters,
        lora=Lora(r=4),
        beta_rule=rule,
        beta_schedule=BetaScheduleConfig((0.1, 0.3, 0.2), "epoch"),
        beta_risk=RiskConfig(warmup=2),
        learning_rate=1e-3,
        epochs=3,
        batch_size=4,
        micro_batch_size=micro_batch_size,
        micro_batch_tokens=micro_batch_tokens,
    )


def outcomes(manifest: Path) -> dict:
    """Return trained weights, log and rule state by β rule, parameters, micro-batch size and options."""
    results = {}
    cases = [(rule, "lora", size, "") for rule in BETAS for size in (1, 2)] + [("batch", "full", 2, "")]
    cases += [("batch", "full", 1, "fsdp2"), ("risk", "lora", 2, "fsdp2"), ("constant", "full", 2, "fsdp2")]
    cases += [("batch", "lora", 2, "tokens"), ("constant", "full", 2, "fsdp2 tokens")]
    cases += [("constant", "full", 1, "fsdp2 once")]  # exchange gradients once per step, as on a GPU with enough memory
    cases += [("constant", p, 1, f"{o}bf16") for p in ("full", "lora") for o in ("", "fsdp2 ", "fsdp2 once ")]
    cases += [("batch", "lora", 1, "aot"), ("constant", "lora", 1, "aot_unpaired"), ("batch", "lora", 1, "sft")]
    cases += [("constant", "lora", 1, f"dora{o}") for o in ("", " fsdp2", " bf16")]
    for rule, parameters, size, options in cases:
        torch.manual_seed(0)
        dtype = torch.bfloat16 if "bf16" in options else torch.float32
        lora = Lora(r=4, dora="dora" in options, rslora="dora" in options)
        model, _ = load_trainable(manifest, manifest, parameters, lora, dtype)
        sharding = "fsdp2" if "fsdp2" in options else "none"
        if sharding == "fsdp2":  # recomputes layers while shards of other layers are in transit
            checkpoint_activations(model)
        with patch.object(distributed, "device_memory", lambda _, size="once" in options: 2**40 * size):
            loss = options if options in LOSSES else "dpo"
            settings = settings_of(rule, parameters, size, 12 if "tokens" in options else None, loss)
            steps, state = train_policy(model, PAIRS, settings, sharding=sharding, dtype=dtype)
        weights = {name: gather_full(p).clone() for name, p in trained_parameters(model).items()}
        sharded = any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
        name = f"{rule} {parameters} {size} {options}".strip()
        results[name] = {"weights": weights, "steps": steps, "state": state, "sharded": sharded}
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("error", "FSDP2-wrapped module .* returned a view tensor")
    result, accelerator = outcomes(Path(sys.argv[1])), Accelerator(cpu=True)
    if accelerator.is_main_process:
        torch.save(result, sys.argv[2])
    accelerator.end_training()  # a gloo thread that is still running at exit can abort the process
