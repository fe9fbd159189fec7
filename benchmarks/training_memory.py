"""What one optimizer step of DPO takes: memory of each process and seconds, by how the training runs.

    OMP_NUM_THREADS=1 python benchmarks/training_memory.py

The model has the shape of SmolLM2-135M and random weights; all parameters or rank-16 adapters are trained by AdamW on
batches of four pairs of 2 × 128 tokens, in float32 on a CPU or bfloat16 on GPUs; of two processes each takes two pairs.
Two steps run, as AdamW's state appears in the first. Every row is a start of this file of its own; memory is the first
process's, its resident size on a CPU or what torch allocated on a GPU, at its most before training and in all.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

SCRIPTS = Path(__file__).resolve().parent.parent / "workflow/scripts"
sys.path.insert(0, str(SCRIPTS))

from prefloop.launching import launch  # noqa: E402
from prefloop.models import add_adapter  # noqa: E402
from prefloop.optimisation import start  # noqa: E402
from prefloop.policies import Lora  # noqa: E402
from prefloop.processes import anywhere, checkpoint_activations  # noqa: E402
from prefloop.tracking import Tracking  # noqa: E402
from prefloop.training import Pair, Settings, train  # noqa: E402

SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
SHAPE |= {"num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True}
PAIRS, LENGTH = 4, 64  # a prompt and a response each have this many tokens
CASES = [
    (parameters, processes, sharding, again)
    for parameters, processes, sharding in (
        ("full", 1, "none"),
        ("full", 2, "none"),
        ("full", 2, "fsdp2"),
        ("lora", 1, "none"),
    )
    for again in ("False", "True")
]


def memory(device: str) -> float:
    """MiB: of this process so far at its most, or allocated on the GPU so far at its most."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(parameters: str, sharding: str, again: str) -> str:
    """Train two steps; this case's row of the table, as the first process sees it."""
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = Settings(parameters=parameters, batch_size=PAIRS, micro_batch_size=PAIRS, epochs=2,
                        dtype="bfloat16" if device == "cuda" else "float32")  # fmt: skip
    accelerator, dtype = start(settings, device, 1, 0, Tracking())
    frozen = torch.float32 if parameters == "full" else dtype
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).to(frozen)
    model = model if parameters == "full" else add_adapter(model, Lora())
    if again == "True":
        checkpoint_activations(model)
    ids = torch.randint(0, 49152, (PAIRS, 3, LENGTH)).tolist()
    pairs = [Pair(prompt, chosen, rejected, -690.0, -690.0) for prompt, chosen, rejected in ids]
    steps: list[dict] = []
    before = memory(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    train(model, pairs, settings, pad=0, seed=0, accelerator=accelerator, on_step=steps.append, sharding=sharding)
    anywhere(False, accelerator)  # all have ended
    seconds = time.perf_counter() - began
    row = [parameters, accelerator.num_processes, sharding, {"True": "yes", "False": "no"}[again]]
    cells = [*row, f"{before:.0f}", f"{memory(device):.0f}", f"{seconds / len(steps):.2f}"]
    return f"| {' | '.join(map(str, cells))} |" if accelerator.is_main_process else ""


def main() -> None:
    print("| parameters | processes | sharding | layers again | MiB before | MiB at most | seconds a step |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for parameters, processes, sharding, again in CASES:
        if torch.cuda.is_available() and processes > torch.cuda.device_count():
            continue
        command = [*launch(processes).split(), __file__, parameters, sharding, again]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        if done.returncode != 0:
            sys.exit(done.stderr)
        print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(*sys.argv[1:]))
    else:
        main()
