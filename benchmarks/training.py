"""Pairs per second of DPO with adapters: prefloop, and TRL's DPOTrainer at its defaults and at its best settings.

    OMP_NUM_THREADS=2 python benchmarks/training.py [--dtype bfloat16]

It needs TRL in addition to the pipeline's packages (tests/requirements.txt). The model has SmolLM2-135M's shape, random
weights, and rank-16 adapters on all linear layers. Each step has four pairs with the lengths of HH-RLHF's. By default,
TRL recomputes layers in the backward pass and runs the reference in every step. Its best settings do neither, and
precompute the reference's log-probabilities, which in prefloop come from scoring. The last columns are the time for
these. Five rounds of three steps each run in turn after an untimed round, and the first step of each round is left out.
Memory is that of a separate process, in addition to its memory with the model loaded.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measuring import Conversation, conversations, machine, multiplication_rate, new_model, ratios, spread
from peers import dpo_trainer, reference_logps, with_adapter
from scoring import operations
from scoring import ours as score

from prefloop.config.training_settings import TrainConfig
from prefloop.models.distributed import wrap_model
from prefloop.models.loading import add_adapter
from prefloop.models.options import Lora
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.training.loop import optimize
from prefloop.training.preference import PreferenceObjective, TokenizedPair
from prefloop.training.run import start_accelerator
from prefloop.training.tracking import Tracking

BATCH, STEPS, ROUNDS = 4, 3, 5
WAYS = ("prefloop", "TRL", "TRL best")


class Way:
    """One way to train: `steps()` trains a round and returns the seconds of each step; `losses` are of these steps."""

    def __init__(
        self, name: str, asked: list[Conversation], dtype: torch.dtype, rate: float = 1e-4, epochs: int = 1
    ) -> None:
        self.name, self.dtype, self.rate, self.epochs = name, dtype, rate, epochs
        torch.manual_seed(0)
        model = new_model(dtype)
        self.model = add_adapter(model, Lora(r=16)) if name == "prefloop" else with_adapter(model)
        self.losses: list[float] = []
        self.beforehand = 0.0
        began = time.perf_counter()
        if name == "prefloop":
            logps = score(prepare_scorer(self.model), asked).tolist()  # new adapters change nothing
            self.pairs = [TokenizedPair(a.prompt, *a.responses, *logp) for a, logp in zip(asked, logps, strict=True)]
            self.beforehand = time.perf_counter() - began
            return
        rows = [{"prompt_ids": a.prompt, "chosen_ids": a.responses[0], "rejected_ids": a.responses[1]} for a in asked]
        best = name == "TRL best"
        self.trainer = dpo_trainer(
            self.model,
            rows,
            per_device_train_batch_size=BATCH,
            num_train_epochs=epochs,
            learning_rate=rate,
            lr_scheduler_type="constant",
            gradient_checkpointing=not best,
            precompute_ref_log_probs=best,
            **({"bf16": True} if dtype == torch.bfloat16 else {}),
        )
        self.clock = clock_of(self)
        self.trainer.add_callback(self.clock)
        if best:
            began = time.perf_counter()
            chosen, rejected = reference_logps(self.trainer, rows).T.tolist()
            self.beforehand = time.perf_counter() - began
            data = self.trainer.train_dataset.add_column("ref_chosen_logps", chosen)
            self.trainer.train_dataset = data.add_column("ref_rejected_logps", rejected)

    def steps(self) -> list[float]:
        self.losses, taken = [], []
        if self.name != "prefloop":
            self.clock.taken = taken
            self.trainer.train()
            return taken
        settings = TrainConfig(
            learning_rate=self.rate,
            schedule="constant",
            warmup_ratio=0.0,
            epochs=self.epochs,
            batch_size=BATCH,
            micro_batch_size=BATCH,
            dtype=str(self.dtype).removeprefix("torch."),
        )
        accelerator = start_accelerator(self.model.device.type, Tracking())
        model = wrap_model(self.model, "none", accelerator, self.dtype)
        objective = PreferenceObjective(prepare_scorer(model), self.pairs, settings, accelerator)
        steps = optimize(model, objective, settings, seed=0, accelerator=accelerator)
        self.losses = [step["loss"] for step in steps]
        return [step["seconds"] for step in steps]


def clock_of(way: Way) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Seconds from the start of a step's forward pass to the end of the optimizer's step."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.taken.append(time.perf_counter() - self.began)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            way.losses += [logs["loss"]] if "loss" in (logs or {}) else []

    return Clock()


def agree(dtype: torch.dtype) -> float:
    """The largest difference between losses of four steps on one batch, starting with the same adapters."""
    losses = []
    for name in WAYS:
        way = Way(name, conversations(BATCH), dtype, rate=1e-3, epochs=STEPS)
        if name != "prefloop":
            way.trainer.args.logging_strategy, way.trainer.args.logging_steps = "steps", 1
        way.steps()
        losses.append(way.losses)
    return max(abs(a - b) for others in losses[1:] for a, b in zip(losses[0], others, strict=True))


def resident(field: str) -> float:
    """Memory of this process in MiB: VmRSS is its current size, VmHWM its peak since the last write to clear_refs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def memory(name: str, dtype: str) -> float:
    """Peak MiB of a separate process in one round, in addition to its size with the model loaded."""
    command = [sys.executable, __file__, "--dtype", dtype, "--memory-of", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def profile(dtype: torch.dtype, most: int = 8) -> None:
    """Print how a round of prefloop's steps spends its time: torch operations with their shares, largest first."""
    from torch.profiler import ProfilerActivity

    way = Way("prefloop", conversations(BATCH * STEPS), dtype)
    way.steps()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiled:
        way.steps()
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print("| operation | share |\n|---|---:|")
    for event in events[:most]:
        print(f"| `{event.key}` | {event.self_cpu_time_total / total:.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--memory-of", choices=WAYS)
    parser.add_argument("--profile", action="store_true", help="only print how prefloop's steps spend their time")
    parser.add_argument(
        "--stretch", type=float, nargs="*", default=[1, 3, 0.1], help="factors of the prompts' lengths, one per row"
    )
    given = parser.parse_args()
    dtype = getattr(torch, given.dtype)
    if given.memory_of:
        way = Way(given.memory_of, conversations(BATCH * STEPS), dtype)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        way.steps()
        print(resident("VmHWM") - before)
        return
    if given.profile:
        profile(dtype)
        return
    rate = multiplication_rate(1024, dtype)
    print(f"{machine()}\n{given.dtype}; matrix product {rate / 1e9:.0f} GFLOP/s")
    print(f"losses of {STEPS} steps on one batch differ by at most {agree(dtype):.1g}")
    print("MiB above the model: " + ", ".join(f"{name} {memory(name, given.dtype):.0f}" for name in WAYS) + "\n")
    print("| prompt | response | prefloop, pairs/s | TRL / prefloop | TRL best / prefloop | of the limit "
          "| reference beforehand, prefloop | TRL best |\n|---:|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    for stretch_prompt in given.stretch:
        asked = conversations(BATCH * STEPS, 2, stretch_prompt)
        ways = [Way(name, asked, dtype) for name in WAYS]
        for way in ways:
            way.steps()
        taken = {name: [] for name in WAYS}
        for _ in range(ROUNDS):
            for way in ways:
                taken[way.name].append(statistics.mean(way.steps()[1:]))
        limit = 2 * operations(way.model, asked) / STEPS / rate  # forward, and backward to the layers' inputs
        cells = [f"{statistics.mean(len(a.prompt) for a in asked):.0f}"]
        cells.append(f"{statistics.mean(len(r) for a in asked for r in a.responses):.0f}")
        cells.append(spread([BATCH / seconds for seconds in taken["prefloop"]]))
        cells += [spread(ratios(taken["prefloop"], taken[name])) for name in WAYS[1:]]
        cells.append(f"{limit / statistics.median(taken['prefloop']):.0%}")
        cells += [f"{way.beforehand:.1f} s" for way in ways if way.name != "TRL"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
