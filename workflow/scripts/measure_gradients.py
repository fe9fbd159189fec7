"""Measure the norm of the DPO gradient of single pairs, to compare it with the metrics that approximate it."""

from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from _program import run
from prefloop.config.evaluation_settings import GradientsConfig
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.core.progress import Progress, Summary
from prefloop.core.seeds import rng_for, seed_for
from prefloop.data.pairs import choose
from prefloop.data.round_pairs import read_pairs, scan_pairs
from prefloop.methods.beta_config import BetaConfig
from prefloop.methods.pair_metrics import METRICS
from prefloop.models.chat import prompt_ids, read_format
from prefloop.models.devices import default_device, resolve_dtype
from prefloop.models.loading import load_trainable
from prefloop.models.manifests import parameter_count
from prefloop.models.options import Dtype, Lora
from prefloop.models.precision import cast_weights
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.training.pair_gradients import (
    check_pair_tokens,
    describe_gradients,
    draw_indices,
    gradient_row,
    measure_pair,
)

COMPARED = ("reward_gap", "pfp", "pfp_raw", "pfp_mean", "dpo_weight")


def main(
    *,
    model: Path,
    policy: Path,
    pfp: tuple[Path, ...],
    output: Path,
    cost: Path,
    seed: int,
    lora: Lora,
    round_index: Annotated[int, arg(name="round")] = 1,
    beta: float = BetaConfig.beta,
    pairs: int = GradientsConfig.pairs,
    dtype: Dtype = "auto",
    chat: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Write gradient norms of randomly drawn pairs of a round, over the adapters that the round trains.

    Metrics use the log-probabilities in the files. Margins and gradients are computed with the policy, without dropout.

    Args:
        model: Manifest of the base model.
        policy: The policy before the round: a policy.pt with an adapter, or the base model's manifest.
        pfp: pfp.jsonl of every step.
        output: Output path for the norms, one row per pair.
        cost: Output path for the cost.
        seed: The run's seed.
        lora: The adapters of an untrained policy, initialized as in the round's training.
        round_index: Round, from 1.
        beta: β of the DPO loss.
        pairs: Number of pairs to draw, without replacement, from all pairs that the feedback has decided.
        dtype: The dtype of the forward and backward pass: auto, bfloat16 or float32.
        chat: The run's chat format, a chat.json; the template's own variables and today's date if not given.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("measure_gradients", parameter_count(model), default_device())
    decided = scan_pairs(pfp, beta)
    if not len(decided):
        raise InputError(f"{pfp[0]}: the feedback has decided no pair of responses, in this step or the others")
    drawn = draw_indices(len(decided), pairs, rng_for(seed, "gradients", round_index))
    precision, chat_format = resolve_dtype(dtype, meter.device), read_format(chat)
    torch.manual_seed(seed_for(seed, "train", round_index))  # train.py's seed, for the same new adapters
    network, tokenizer = load_trainable(model, policy, "lora", lora, precision)
    scorer = prepare_scorer(cast_weights(network, precision).to(meter.device).eval())
    measured = []
    with Progress("measure_gradients", len(drawn), "pair") as progress:
        for index, pair in zip(drawn, read_pairs(decided, drawn), strict=True):
            check_pair_tokens(model, pair, pfp[decided.steps[index]])
            prompt = prompt_ids(tokenizer, pair.prompt["messages"], chat_format)
            gradient, tokens = measure_pair(pair, prompt, scorer, beta)
            measured.append((pair, gradient))
            meter.train(tokens)
            progress.update()
    metrics = {name: METRICS[name](choose(decided.columns, drawn), rng_for(seed)) for name in COMPARED}
    rows = [{name: float(metrics[name][i]) for name in COMPARED} for i in range(len(drawn))]
    write_rows(output, (gradient_row(*pair, row) for pair, row in zip(measured, rows, strict=True)))
    meter.write(cost)
    what, result = f"{len(drawn)} of {len(decided)} pairs", describe_gradients(measured, metrics["pfp"])
    return Summary(what, len(drawn), "pair", result, meter.seconds)


run(main)
