"""Measure how well a policy predicts plain text that is unrelated to its training, to check for forgetting."""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tyro.conf import arg

from _program import run
from prefloop.config.evaluation_settings import PerplexityConfig
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.core.progress import Summary
from prefloop.data.documents import read_documents
from prefloop.evaluation.perplexity import cut_windows, score_windows, start_token
from prefloop.evaluation.perplexity_results import total
from prefloop.models.devices import default_device, resolve_dtype
from prefloop.models.loading import load_scorers
from prefloop.models.manifests import parameter_count
from prefloop.models.positions import max_positions


def main(
    *,
    model: Path,
    policy: Path,
    text: Path,
    output: Path,
    cost: Path,
    settings: Annotated[PerplexityConfig, arg(name="")],
    threads: int = 1,
) -> Summary:
    """Sum the log-probabilities of every document's tokens, each given the tokens before it in its window.

    The text is read without a chat template. The first token of a document follows BOS, or EOS if the tokenizer has no
    BOS.

    Args:
        model: Manifest of the base model.
        policy: The policy: a policy.pt, or the base model's manifest.
        text: A .txt file, or a .jsonl file with a document per row.
        output: Output path for n_tokens, n_bytes and logp of each document.
        cost: Output path for the cost.
        settings: How the text is cut and scored.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("measure_perplexity", parameter_count(model), device := default_device())
    check_windows(model, settings)
    documents, empty = read_documents(text, settings.column)
    models, tokenizer = load_scorers(model, policy, policy, resolve_dtype(settings.dtype, device), device)
    start = start_token(tokenizer)
    encoded = [tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"] for document in documents]
    parts = [cut_windows(tokens, start, settings.max_tokens, settings.context) for tokens in encoded]
    windows = [window for part in parts for window in part]
    if not windows:
        raise InputError(f"{text}: the model's tokenizer finds no tokens in it; name another file")
    logps = score_windows(models.policy, windows, settings.batch_size, meter)
    if not np.isfinite(logps).all():
        raise InputError(f"{policy}: its log-probability of {text} is not finite; the policy has diverged")
    owners = np.repeat(np.arange(len(documents)), list(map(len, parts)))
    sums = np.bincount(owners, weights=logps, minlength=len(documents)).tolist()
    rows = [
        {"document": document.number, "n_tokens": len(tokens), "n_bytes": len(document.text.encode()), "logp": logp}
        for document, tokens, logp in zip(documents, encoded, sums, strict=True)
    ]
    write_rows(output, rows)
    meter.write(cost)
    score = total(rows)
    left_out = f"; {empty} empty documents left out" if empty else ""
    return Summary(
        f"{score.n_tokens:,} tokens of {len(rows)} documents",
        score.n_tokens,
        "token",
        f"perplexity {score.perplexity:.4g}, {score.bits_per_byte:.4g} bits per byte{left_out}",
        meter.seconds,
    )


def check_windows(model: Path, settings: PerplexityConfig) -> None:
    """Raise InputError if the model cannot read the windows, or if they leave no token to score."""
    limit, size = max_positions(model), settings.max_tokens
    if settings.context >= size:
        raise InputError(f"evaluation.perplexity.context: {settings.context}, expected less than max_tokens, {size}")
    if limit is not None and size > limit:
        raise InputError(f"evaluation.perplexity.max_tokens: {size}, and {model} has {limit} positions; lower it")


run(main)
