"""Measure the KL divergence of the policy from its reference, in nats."""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tyro.conf import arg

from _program import run
from prefloop.config.evaluation_settings import EvaluationConfig, KLConfig
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.core.progress import Summary
from prefloop.evaluation.kl import MeasuredResponse, draw_uniforms, sample_divergences
from prefloop.models.chat import eos_ids, prompt_ids, read_format, response_text
from prefloop.models.devices import default_device, resolve_dtype
from prefloop.models.loading import load_scorers
from prefloop.models.manifests import parameter_count
from prefloop.models.positions import check_positions


def main(
    *,
    model: Path,
    policy: Path,
    reference: Path,
    prompts: Path,
    output: Path,
    cost: Path,
    seed: int,
    stream: str,
    settings: Annotated[KLConfig, arg(name="")],
    max_new_tokens: int = EvaluationConfig.max_new_tokens,
    batch_size: int = EvaluationConfig.batch_size,
    chat: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Sample from the policy at temperature 1, and sum its exact KL divergence from the reference over positions.

    The result is the divergence for the first max_new_tokens tokens. The policy's adapter is not merged, so that
    sampling and scoring use the same weights.

    Args:
        model: Manifest of the base model.
        policy: The policy: a policy.pt, or the base model's manifest.
        reference: The reference, in the same form; the policy itself gives exactly 0.
        prompts: Prompts to answer.
        output: Output path for kl and log_ratio of each response, in the order of the prompts.
        cost: Output path for the cost.
        seed: The run's seed.
        stream: Name of this use of the seed; policies with the same stream sample with the same random numbers.
        settings: How the divergence is measured.
        max_new_tokens: Tokens after which a response is cut.
        batch_size: Responses per batch.
        chat: The run's chat format, a chat.json; the template's own variables and today's date if not given.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("measure_kl", parameter_count(model), device := default_device())
    models, tokenizer = load_scorers(model, policy, reference, resolve_dtype(settings.dtype, device), device)
    rows = read_rows(prompts, ["prompt_id", "messages"])
    chat_format = read_format(chat)
    encoded = [prompt_ids(tokenizer, row["messages"], chat_format) for row in rows]
    eos = eos_ids(tokenizer, models.policy.model.generation_config, chat_format)
    check_positions(model, max(map(len, encoded)) + max_new_tokens)
    uniforms = draw_uniforms(seed, stream, [row["prompt_id"] for row in rows], settings.samples, max_new_tokens)
    measured = sample_divergences(models, encoded, uniforms, batch_size, eos, meter)
    kl, log_ratio = (np.array([getattr(r, name) for r in measured.values()]) for name in ("kl", "log_ratio"))
    if not (np.isfinite(kl).all() and np.isfinite(log_ratio).all()):
        raise InputError(f"{policy}: its divergence from {reference} is not finite; the policy has diverged")
    responses = ((rows[i]["prompt_id"], number, response) for (i, number), response in sorted(measured.items()))
    texts = partial(response_text, tokenizer, ends=eos, chat=chat_format)
    write_rows(output, (to_row(*row, texts(row[-1].ids), eos) for row in responses))
    meter.write(cost)
    return Summary(
        f"{len(measured)} responses to {len(rows)} prompts",
        len(measured),
        "response",
        f"{kl.mean():.3f} nats (sd {kl.std():.3f}), log-ratio {log_ratio.mean():.3f} (sd {log_ratio.std():.3f})",
        meter.seconds,
    )


def to_row(prompt_id: str, response_id: int, response: MeasuredResponse, text: str, eos: list[int]) -> dict:
    """A row of kl.jsonl."""
    return {
        "prompt_id": prompt_id,
        "response_id": response_id,
        "n_tokens": len(response.ids),
        "kl": response.kl,
        "log_ratio": response.log_ratio,
        "response": text,
        "finish_reason": "stop" if response.ids[-1] in eos else "length",
    }


run(main)
