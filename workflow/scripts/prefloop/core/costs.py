"""The cost of a stage: tokens, FLOPs, seconds and memory.

FLOPs follow the usual estimate for a transformer with P parameters: 2P per token of a forward pass (generated, scored
or rewarded) and 6P per trained token (forward and backward). In a mixture of experts, P is the number of active
parameters per token. Prompt tokens count too, but only once if several responses share one prompt. LoRA skips the
weight gradients of the backward pass, so 6P overestimates it.
"""

import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from prefloop.core.files import write_json


@dataclass
class Usage:
    """The work that a source of feedback has done so far."""

    device: str | None = None
    """Where its model runs: a torch device or "server"; None without a model."""
    parameters: int = 0
    """Active parameters per token of a local model; 0 without a local model."""
    tokens_in: int = 0
    """Tokens read."""
    tokens_out: int = 0
    """Tokens written."""
    requests: dict[str, int] = field(default_factory=dict)
    """Counts of requests to a server, by name."""
    parts: list["Usage"] = field(default_factory=list)
    """Usage of each source, if several are combined. It is counted in addition to the fields above."""

    def reset(self) -> None:
        """Set all counts to 0 for the next step of the same call."""
        self.tokens_in = self.tokens_out = 0
        self.requests.update(dict.fromkeys(self.requests, 0))
        self.parts.clear()


class CostMeter:
    """Counts a stage's work from its creation to `write`, which stores one JSON object next to the stage's output.

    `notes` are added to that object unchanged.
    """

    def __init__(self, stage: str, parameters: int = 0, device: str = "cpu") -> None:
        self.stage, self.parameters, self.device = stage, parameters, device
        self.tokens_in = self.tokens_out = self.flops = 0
        self.notes: dict = {}
        self.earlier_seconds = 0.0  # of runs that were interrupted
        self.start = time.perf_counter()

    def forward(self, tokens_in: int, tokens_out: int = 0, parameters: int | None = None) -> None:
        """Count tokens read (`tokens_in`) and generated (`tokens_out`), 2P FLOPs each."""
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.flops += 2 * (self.parameters if parameters is None else parameters) * (tokens_in + tokens_out)

    def add_usage(self, usage: Usage) -> None:
        """Count the work of a source of feedback. The FLOPs of a server are unknown and count as 0."""
        if not self.device.startswith("cuda"):  # a GPU counts, even if another source is a server
            self.device = usage.device or self.device
        self.forward(usage.tokens_in, usage.tokens_out, usage.parameters)
        for part in usage.parts:
            self.add_usage(part)

    def train(self, tokens: int) -> None:
        """Count trained tokens, 6P FLOPs each."""
        self.tokens_in += tokens
        self.flops += 6 * self.parameters * tokens

    def resume(self, seconds: float, times: int) -> None:
        """Count the seconds of `times` interrupted runs of this stage."""
        self.earlier_seconds = seconds
        self.notes |= {"resumed": times} if times else {}

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.start

    def write(self, path: Path) -> None:
        write_json(
            path,
            {
                "stage": self.stage,
                "tokens_in": self.tokens_in,
                "tokens_out": self.tokens_out,
                "flops": self.flops,
                "seconds": round(self.seconds, 3),
                "device": self.device,
                "peak_memory_bytes": peak_memory(self.device),
                "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            }
            | self.notes,
        )


def peak_memory(device: str) -> int:
    """Peak memory in bytes: of the accelerator if one is used, else of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
