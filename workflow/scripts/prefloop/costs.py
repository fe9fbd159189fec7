"""What a stage cost: tokens, floating-point operations, seconds and memory.

Operations follow the usual count for a transformer of P parameters: 2P for a token that passes forward
(generated, scored or rewarded), 6P for a token trained on (forward and backward). Prompt tokens pass
forward too and are counted, once where several responses are read behind one prompt. LoRA's backward
pass skips the weight gradients, so 6P overstates it.
"""

import os
import resource
import sys
import time
from pathlib import Path

from prefloop.rows import write_json


class CostMeter:
    """Counts a stage's work from its creation to `write`, which stores one JSON object beside the stage's output.

    `notes` go into that object as they are.
    """

    def __init__(self, stage: str, parameters: int = 0, device: str = "cpu"):
        self.stage, self.parameters, self.device = stage, parameters, device
        self.tokens_in = self.tokens_out = self.flops = 0
        self.notes: dict = {}
        self.earlier = 0.0  # seconds of a part that was interrupted
        self.start = time.perf_counter()

    def forward(self, tokens_in: int, tokens_out: int = 0, parameters: int | None = None) -> None:
        """Count tokens read (`tokens_in`) and generated (`tokens_out`), each 2P operations."""
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        self.flops += 2 * (self.parameters if parameters is None else parameters) * (tokens_in + tokens_out)

    def feedback(self, score) -> None:
        """Count what a feedback has read; a function without a model costs nothing."""
        self.device = getattr(score, "device", self.device)
        self.forward(getattr(score, "tokens", 0), parameters=getattr(score, "parameters", 0))
        self.tokens_in += getattr(score, "prompt_tokens", 0)  # of a server, whose parameters nobody tells
        self.tokens_out += getattr(score, "completion_tokens", 0)

    def train(self, tokens: int) -> None:
        """Count tokens trained on, each 6P operations."""
        self.tokens_in += tokens
        self.flops += 6 * self.parameters * tokens

    def resume(self, seconds: float, times: int) -> None:
        """Count what the parts of a stage took that was interrupted so many times; of none nothing is noted."""
        self.earlier = seconds
        self.notes |= {"resumed": times} if times else {}

    @property
    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.start

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
    """Most bytes held at once: on the accelerator if one is used, else by this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
