"""Supervised fine-tuning: the negative log-likelihood of given responses, a mean over response tokens."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from prefloop.optimisation import Optimisation, backward, check_finite, gather_rows, micro_batches, optimise
from prefloop.scoring import response_logps


class Example(NamedTuple):
    """A prompt and the response to learn, as token ids."""

    prompt: list[int]
    response: list[int]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.response)


def finetune(
    model,
    examples: list[Example],
    settings: Optimisation,
    *,
    pad: int,
    seed: int,
    accelerator,
    on_step: Callable[[dict], None],
) -> None:
    """Train `model` in place; a step's loss is −Σ log π over Σ tokens of the global batch's responses, in nats."""

    def take_step(model, step: int, epoch: int, indices: list[int]) -> dict:
        predicted, parts = sum(len(examples[i].response) for i in indices), []

        def loss_of(micro: list[int]) -> Tensor:
            batch = [examples[i] for i in micro or indices[:1]]
            with accelerator.autocast():
                logps = response_logps(model, [e.prompt for e in batch], [e.response for e in batch], pad)
            parts.append(logps[: len(micro), None].detach())
            return -logps[: len(micro)].sum() / predicted if micro else 0 * logps.sum()

        backward(model, micro_batches(indices, settings.micro_batch_size, accelerator), loss_of, accelerator)
        logps = gather_rows(torch.cat(parts), accelerator)
        check_finite(logps, step)
        return {"loss": -logps.sum().item() / predicted, "tokens": sum(examples[i].tokens for i in indices)}

    optimise(model, len(examples), settings, take_step, seed=seed, accelerator=accelerator, on_step=on_step)
