"""Memory per process and seconds per optimizer step of DPO, by runtime options.

    OMP_NUM_THREADS=1 python benchmarks/training_memory.py

The model has the shape of SmolLM2-135M and random weights. AdamW trains all parameters or rank-16 adapters on batches
of four pairs of 2 × 128 tokens, in float32 on a CPU or bfloat16 on GPUs. With two processes, each takes two pairs. Two
steps run, because AdamW creates its state in the first. Every row is a separate start of this program. Memory is the
first process's peak, before training and in total: its resident size on a CPU, or torch's allocations on a GPU.
"""

import os
import resource
import subprocess
import sys
import time

import torch
from measuring import SMOLLM2, new_model

from prefloop.config.training_settings import TrainConfig
from prefloop.models.distributed import checkpoint_activations, true_anywhere, wrap_model
from prefloop.models.loading import add_adapter
from prefloop.models.options import Lora
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.monitor.launch import launch
from prefloop.training.loop import optimize
from prefloop.training.preference import PreferenceObjective, TokenizedPair
from prefloop.training.run import start_accelerator
from prefloop.training.tracking import Tracking

PAIRS, LENGTH = 4, 64  # tokens of a prompt, and of a response
CASES = [
    (parameters, processes, sharding, recompute)
    for parameters, processes, sharding in (
        ("full", 1, "none"),
        ("full", 2, "none"),
        ("full", 2, "fsdp2"),
        ("lora", 1, "none"),
    )
    for recompute in ("False", "True")
]


def memory(device: str) -> float:
    """Peak MiB so far, of this process on a CPU or of allocations on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(parameters: str, sharding: str, recompute: str) -> str:
    """Train two steps; the first process returns the row of the table, the others an empty text."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = TrainConfig(parameters=parameters, batch_size=PAIRS, micro_batch_size=PAIRS, epochs=2,
                        dtype="bfloat16" if device == "cuda" else "float32")  # fmt: skip
    torch.set_num_threads(1)
    dtype = getattr(torch, settings.dtype)
    accelerator = start_accelerator(device, Tracking())
    model = new_model(torch.float32) if parameters == "full" else add_adapter(new_model(dtype), Lora())
    if recompute == "True":
        checkpoint_activations(model)
    ids = torch.randint(0, SMOLLM2["vocab_size"], (PAIRS, 3, LENGTH)).tolist()
    pairs = [TokenizedPair(prompt, chosen, rejected, -690.0, -690.0) for prompt, chosen, rejected in ids]
    before = memory(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    model = wrap_model(model, sharding, accelerator, dtype)
    objective = PreferenceObjective(prepare_scorer(model), pairs, settings, accelerator)
    steps = optimize(model, objective, settings, seed=0, accelerator=accelerator)
    true_anywhere([False], accelerator)  # waits for all processes
    seconds = time.perf_counter() - began
    row = [parameters, accelerator.num_processes, sharding, {"True": "yes", "False": "no"}[recompute]]
    cells = [*row, f"{before:.0f}", f"{memory(device):.0f}", f"{seconds / len(steps):.2f}"]
    return f"| {' | '.join(map(str, cells))} |" if accelerator.is_main_process else ""


def main() -> None:
    print("| parameters | processes | sharding | checkpointing | MiB before | peak MiB | seconds per step |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for parameters, processes, sharding, recompute in CASES:
        if torch.cuda.is_available() and processes > torch.cuda.device_count():
            continue
        command = [*launch(processes).split(), __file__, parameters, sharding, recompute]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        if done.returncode != 0:
            sys.exit(done.stderr)
        print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(*sys.argv[1:]))
    else:
        main()
