"""Supervised fine-tuning: the negative log-likelihood of given responses, averaged over response tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from prefloop.models.chat import DEFAULT_FORMAT, ChatFormat, example_ids
from prefloop.models.positions import check_positions
from prefloop.models.response_logprobs import Scorer, response_logprobs
from prefloop.training.loop import Batch, Metrics, StatelessObjective

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SFTExample(NamedTuple):
    """A prompt and the response to learn, as token ids."""

    prompt: list[int]
    response: list[int]

    @property
    def tokens(self) -> int:
        """Tokens that pass through the model; the last token predicts nothing and is left out."""
        return len(self.prompt) + len(self.response) - 1


def tokenize_examples(
    rows: Sequence[dict],
    tokenizer: "PreTrainedTokenizerBase",
    max_response_tokens: int,
    model: Path,
    chat: ChatFormat = DEFAULT_FORMAT,
) -> list[SFTExample]:
    """Tokenize the `chosen` responses of prompts; responses that are too long are cut, and lose their end token.

    Raises:
        InputError: An example is too long for the model of the manifest `model`.
    """
    pairs = [example_ids(tokenizer, row["messages"], row["chosen"], chat) for row in rows]
    examples = [SFTExample(prompt, response[:max_response_tokens]) for prompt, response in pairs]
    check_positions(model, max(len(prompt) + len(response) for prompt, response in examples))
    return examples


class SFTObjective(StatelessObjective):
    """−Σ log π / Σ tokens over the responses of a global batch, in nats."""

    stage, unit = "sft", "response"

    def __init__(self, scorer: Scorer, examples: Sequence[SFTExample]) -> None:
        self.scorer, self.examples = scorer, examples

    def __len__(self) -> int:
        return len(self.examples)

    def tokens(self, indices: list[int]) -> int:
        """Tokens of the examples; without packing, all are padded to the longest one."""
        lengths = [self.examples[i].tokens for i in indices]
        return sum(lengths) if self.scorer.packed else len(lengths) * max(lengths)

    def response_tokens(self, batch: Batch) -> int:
        """Response tokens of the global batch."""
        return sum(len(self.examples[i].response) for i in batch.indices)

    def begin_step(self, batch: Batch, rng: np.random.Generator) -> dict[int, float]:
        """Weight every response's loss by 1 / number of all response tokens."""
        return dict.fromkeys(batch.indices, 1 / self.response_tokens(batch))

    def losses(self, micro_batch: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """−log π of each response, [examples], nats."""
        examples = [self.examples[i] for i in micro_batch]
        logps = response_logprobs(self.scorer, [e.prompt for e in examples], [e.response for e in examples])
        return -logps, {}

    def end_step(self, batch: Batch, values: dict[str, Tensor]) -> Metrics:
        """The mean loss per response token."""
        loss = values["loss"].sum().item() / self.response_tokens(batch)
        return {"loss": loss, "tokens": sum(self.examples[i].tokens for i in batch.indices)}
