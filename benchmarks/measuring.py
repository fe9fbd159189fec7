"""Helpers that the benchmarks share: a model, a workload, and timing in turn."""

import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow/scripts"))

HERE = Path(__file__).resolve().parent
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "rope_theta": 100000.0,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Conversation(NamedTuple):
    """A prompt and its responses, as token ids."""

    prompt: list[int]
    responses: list[list[int]]


def new_model(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A model with SmolLM2-135M's shape and always the same random weights; its speed is that of the real model."""
    import transformers

    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMOLLM2 | changes)).to(dtype).eval()


def conversations(count: int, responses: int = 2, stretch_prompt: float = 1, stretch: float = 1) -> list[Conversation]:
    """Random tokens with the lengths of HH-RLHF's conversations (lengths.csv: 256 of its pairs in SmolLM2's tokens).

    `responses` have the lengths of chosen and rejected responses in turn; all lengths can be stretched.
    """
    generator = torch.Generator().manual_seed(1)

    def ids(length: float) -> list[int]:
        return torch.randint(3, SMOLLM2["vocab_size"], (max(1, round(length)),), generator=generator).tolist()

    with (HERE / "lengths.csv").open() as file:
        rows = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert count <= len(rows)
    sides = ("chosen", "rejected")
    return [
        Conversation(ids(row["prompt"] * stretch_prompt), [ids(row[sides[i % 2]] * stretch) for i in range(responses)])
        for row in rows[:count]
    ]


def in_turn(works: dict[str, Callable[[], object]], repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of each function, run `repeats` times in turn after one untimed run of each."""
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - start)
    return taken


def spread(values: list[float], digits: int = 2) -> str:
    """Median (minimum–maximum)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """The peer's time divided by ours, run by run."""
    return [their / our for our, their in zip(ours, theirs, strict=True)]


def multiplication_rate(rows: int, dtype: torch.dtype, device: str = "cpu") -> float:
    """Operations per second of a matrix product on this machine, in the shapes of the model's layers; median of 20.

    Each product is freed before the next one, because otherwise the time would include allocating memory.
    """
    inner, outer = SMOLLM2["hidden_size"], SMOLLM2["intermediate_size"]
    states, weight = (
        torch.randn(rows, inner, dtype=dtype, device=device),
        torch.randn(outer, inner, dtype=dtype, device=device),
    )

    def products() -> None:
        for _ in range(20):
            torch.nn.functional.linear(states, weight)
        if device != "cpu":
            torch.cuda.synchronize()

    return 20 * 2 * rows * inner * outer / statistics.median(in_turn({"products": products}, repeats=20)["products"])


def machine() -> str:
    """A line with processor, threads, load and versions."""
    names = ("torch", "transformers", "peft", "accelerate")
    cores = f"{torch.get_num_threads()} thread(s) of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{processor()}{gpu}, {cores}; Python {platform.python_version()}, {packages}"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
