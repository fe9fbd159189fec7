"""Log-probabilities of plain text under a policy. Documents are cut into windows, and every token is scored once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.progress import Progress
from prefloop.models.batching import batches_by_length
from prefloop.models.response_logprobs import Scorer, response_logprobs, tokens_read

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Window(NamedTuple):
    """Consecutive tokens of a document."""

    context: list[int]
    """Token ids that are read but not scored; at least one."""
    scored: list[int]
    """Token ids after them, which are scored."""


def start_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that precedes a document's first token: BOS, or EOS if the tokenizer has no BOS.

    Raises:
        InputError: The tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise InputError(
        f"{tokenizer.name_or_path}: its tokenizer has neither BOS nor EOS, so a document's first token has no context; "
        "set evaluation.perplexity.text: null"
    )


def cut_windows(tokens: Sequence[int], start: int, max_tokens: int, context: int = 1) -> list[Window]:
    """Cut a document into windows so that every token is scored exactly once.

    The first window begins with `start`, which is not scored. Every later window begins with the last `context` tokens
    of the window before it.

    Args:
        tokens (Sequence[int]): [tokens], token ids of the document, without special tokens.
        start (int): Token id that precedes the document.
        max_tokens (int): Maximum number of tokens per window, including its context; larger than `context`.
        context (int): Tokens that consecutive windows share, at least 1.
    """
    sequence, windows, position = [start, *tokens], [], 1
    while position < len(sequence):
        first = max(0, position - context)
        windows.append(Window(sequence[first:position], sequence[position : first + max_tokens]))
        position = first + max_tokens
    return windows


def score_windows(scorer: Scorer, windows: Sequence[Window], batch_size: int, meter: CostMeter) -> list[float]:
    """log π of each window's scored tokens, given its context: [windows], nats.

    Args:
        scorer (Scorer): From `prepare_scorer`.
        windows (Sequence[Window]): [windows].
        batch_size (int): Windows per forward pass.
        meter (CostMeter): Counts the tokens.
    """
    logps = [0.0] * len(windows)
    lengths = [len(window.context) + len(window.scored) for window in windows]
    with Progress("measure_perplexity", len(windows), "window") as progress, torch.no_grad():
        for batch in batches_by_length(lengths, batch_size):
            contexts, scored = zip(*(windows[i] for i in batch), strict=True)
            tokens = tokens_read(scorer, contexts, scored)
            for i, logp in zip(batch, response_logprobs(scorer, contexts, scored).tolist(), strict=True):
                logps[i] = logp
            meter.forward(tokens)
            progress.update(len(batch), tokens)
    return logps
