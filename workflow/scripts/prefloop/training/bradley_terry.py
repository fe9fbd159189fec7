"""Train a reward model on preference pairs with the Bradley-Terry loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefloop.core.progress import Progress
from prefloop.feedback.reward_model import classify, encode
from prefloop.models.batching import batches_by_length
from prefloop.models.chat import DEFAULT_FORMAT, ChatFormat
from prefloop.training.loop import Batch, Metrics, StatelessObjective

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase


class EncodedPair(NamedTuple):
    """Both responses of a pair, as encoded by the tokenizer."""

    chosen: "BatchEncoding"
    rejected: "BatchEncoding"

    @property
    def tokens(self) -> int:
        """Number of tokens of both."""
        return len(self.chosen["input_ids"]) + len(self.rejected["input_ids"])


def encode_pairs(
    tokenizer: "PreTrainedTokenizerBase", rows: Sequence[dict[str, Any]], chat: ChatFormat = DEFAULT_FORMAT
) -> list[EncodedPair]:
    """Encode pairs for a reward model, with `encode`."""
    return [
        EncodedPair(*(encode(tokenizer, row["messages"], row[side], chat) for side in EncodedPair._fields))
        for row in rows
    ]


def bradley_terry(rewards_chosen: Tensor, rewards_rejected: Tensor) -> Tensor:
    """−log σ(r_w − r_l) of each pair, [pairs] (Bradley and Terry 1952; Stiennon et al. 2020, arXiv 2009.01325)."""
    return -F.logsigmoid(rewards_chosen - rewards_rejected)


def rewards(model: nn.Module, tokenizer: "PreTrainedTokenizerBase", encoded: Sequence["BatchEncoding"]) -> Tensor:
    """The reward of every encoded conversation, which is the model's logit: [conversations], float32."""
    return classify(model, tokenizer, encoded).logits[:, 0].float()


class RewardModelObjective(StatelessObjective):
    """The mean `bradley_terry` loss of a global batch; `model` is a sequence classifier with one logit."""

    stage, unit = "reward_model", "pair"

    def __init__(self, model: nn.Module, tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[EncodedPair]) -> None:
        self.model, self.tokenizer, self.pairs = model, tokenizer, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens(self, indices: list[int]) -> int:
        """Tokens of the conversations when all are padded to the longest one."""
        return 2 * len(indices) * max(len(side["input_ids"]) for i in indices for side in self.pairs[i])

    def begin_step(self, batch: Batch, rng: np.random.Generator) -> dict[int, float]:
        """All pairs count equally."""
        return dict.fromkeys(batch.indices, 1 / len(batch.indices))

    def losses(self, micro_batch: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and reward gaps, each [pairs]."""
        pairs = [self.pairs[i] for i in micro_batch]
        both = rewards(self.model, self.tokenizer, [p.chosen for p in pairs] + [p.rejected for p in pairs])
        chosen, rejected = both.split(len(pairs))
        return bradley_terry(chosen, rejected), {"gap": chosen - rejected}

    def end_step(self, batch: Batch, values: dict[str, Tensor]) -> Metrics:
        """Mean loss and accuracy."""
        return {
            "loss": values["loss"].mean().item(),
            "accuracy": (values["gap"] > 0).float().mean().item(),
            "tokens": sum(self.pairs[i].tokens for i in batch.indices),
        }


@torch.no_grad()
def reward_gaps(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[EncodedPair], batch_size: int
) -> np.ndarray:
    """r(chosen) − r(rejected) of each pair: [pairs]."""
    responses = [response for pair in pairs for response in pair]
    values = np.zeros(len(responses))
    with Progress("reward_model (held out)", len(responses), "response") as progress:
        for batch in batches_by_length([len(response["input_ids"]) for response in responses], batch_size):
            values[batch] = rewards(model, tokenizer, [responses[i] for i in batch]).cpu().numpy()
            progress.update(len(batch))
    return values[0::2] - values[1::2]
