"""Supervised fine-tuning: the negative log-likelihood of given responses, a mean over response tokens."""

from typing import NamedTuple

from torch import Tensor

from prefloop.optimisation import Optimisation, global_step, optimise
from prefloop.scoring import response_logps


class Example(NamedTuple):
    """A prompt and the response to learn, as token ids."""

    prompt: list[int]
    response: list[int]

    @property
    def tokens(self) -> int:
        """Tokens that pass through the model: the last one predicts none."""
        return len(self.prompt) + len(self.response) - 1


def finetune(
    model,
    examples: list[Example],
    settings: Optimisation,
    *,
    pad: int,
    seed: int,
    accelerator,
    **loop,
) -> None:
    """Train `model` in place; a step's loss is −Σ log π over Σ tokens of the global batch's responses, in nats.

    `loop` is what else `optimise` takes.
    """

    def take_step(model, step: int, epoch: int, indices: list[int]) -> dict:
        def losses_of(some: list[int]) -> Tensor:
            batch = [examples[i] for i in some]
            with accelerator.autocast():
                logps = response_logps(model, [e.prompt for e in batch], [e.response for e in batch], pad)
            return -logps[:, None]

        predicted = sum(len(examples[i].response) for i in indices)
        weight, size = dict.fromkeys(indices, 1 / predicted), settings.micro_batch_size
        losses = global_step(model, indices, weight, losses_of, size, step, accelerator)
        return {"loss": losses.sum().item() / predicted, "tokens": sum(examples[i].tokens for i in indices)}

    loop |= {"stage": "sft", "unit": "response"}
    optimise(model, len(examples), settings, take_step, seed=seed, accelerator=accelerator, **loop)
