"""How large the DPO gradient of single pairs is, beside the metrics that are meant to foretell it."""

from pathlib import Path

import numpy as np
import torch

from _program import run
from prefloop.chat import prompt_ids
from prefloop.costs import CostMeter
from prefloop.gradients import draw, pair_gradient
from prefloop.manifests import parameter_count
from prefloop.metrics import METRICS
from prefloop.models import default_device, load_trainable, resolve_dtype
from prefloop.pairs import all_pairs, read_responses, to_columns
from prefloop.policies import Lora
from prefloop.progress import Progress, Summary
from prefloop.rows import InputError, read_rows, write_rows
from prefloop.scoring import response_logps, tokens_read
from prefloop.seeds import rng_for, seed_for
from prefloop.stats import spearman

COMPARED = ("reward_gap", "pfp", "pfp_raw", "pfp_mean", "dpo_weight")


def main(
    *,
    model: Path,
    policy: Path,
    prompts: tuple[Path, ...],
    generations: tuple[Path, ...],
    rewards: tuple[Path, ...],
    pfp: tuple[Path, ...],
    output: Path,
    cost: Path,
    seed: int,
    lora: Lora,
    round: int = 1,
    beta: float = 0.1,
    pairs: int = 300,
    dtype: str = "auto",
    threads: int = 1,
) -> Summary:
    """Gradient norms of pairs drawn at random from a round's, over the adapters that the round trains.

    Metrics are computed from the files, as when pairs are selected; margins and gradients by the policy as it is
    loaded here, as when it is trained, but without dropout. `chosen` and `rejected` are response ids.

    Args:
        model: Manifest of the base model.
        policy: The policy before the round: a policy.pt with an adapter, or the base model's manifest.
        prompts: The steps' prompts.
        generations: The steps' responses.
        rewards: The steps' rewards.
        pfp: The steps' log-probabilities.
        output: Where the pairs go, one row each.
        cost: Where the cost goes.
        seed: The run's seed.
        lora: The adapters of an untrained policy; they start as the round's training starts them.
        round: Round, from 1.
        beta: β of the DPO loss.
        pairs: Pairs drawn, without replacement, of all that the feedback has decided.
        dtype: Arithmetic of the forward and backward pass: auto, bfloat16 or float32; adapters are in float32.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    device = default_device()
    meter = CostMeter("gradients", parameter_count(model), device)
    precision = resolve_dtype(dtype, device)
    torch.manual_seed(seed_for(seed, "train", round))  # train.py's, so that new adapters are the same ones
    network, tokenizer = load_trainable(model, policy, "lora", lora, precision)
    network.to(device).eval()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decided = []
    for files in zip(rewards, pfp, generations, strict=True):
        decided += all_pairs(read_responses(*files))[0]
    if not decided:
        raise InputError(f"{rewards[0]}: no pair of responses that the feedback tells apart, in this step or others")
    drawn = [decided[i] for i in draw(len(decided), pairs, rng_for(seed, "gradients", round))]
    messages = {
        row["prompt_id"]: row["messages"] for path in prompts for row in read_rows(path, ["prompt_id", "messages"])
    }
    if unknown := {pair.chosen["prompt_id"] for pair in drawn} - messages.keys():
        raise InputError(f"{prompts[0]}: no prompt {min(unknown)}, which {rewards[0]} or a file beside it answers")
    found = []
    with Progress("gradients", len(drawn), "pair") as progress:
        for pair in drawn:
            prompt = prompt_ids(tokenizer, messages[pair.chosen["prompt_id"]])
            responses = [response["token_ids"] for response in pair[:2]]
            with torch.autocast(device, precision, enabled=precision != torch.float32):
                logps = response_logps(network, [prompt, prompt], responses, tokenizer.pad_token_id)
            references = [response["logp_ref"] for response in pair[:2]]
            found.append(pair_gradient(*logps, *references, beta, trained))
            meter.train(tokens_read(network, [prompt, prompt], responses))
            if not np.isfinite(found[-1]).all():
                raise InputError(f"{policy}: prompt {pair.chosen['prompt_id']} has a gradient that is not finite")
            progress.update()
    columns = to_columns(drawn, beta)
    metrics = {name: METRICS[name](columns, rng_for(seed)) for name in COMPARED}
    write_rows(
        output,
        (
            {
                "prompt_id": pair.chosen["prompt_id"],
                "chosen": pair.chosen["response_id"],
                "rejected": pair.rejected["response_id"],
                "n_chosen": pair.chosen["n_tokens"],
                "n_rejected": pair.rejected["n_tokens"],
                **{name: float(values[i]) for name, values in metrics.items()},
                "margin": found[i].margin,
                "grad_norm": found[i].grad_norm,
                "unweighted_norm": found[i].unweighted_norm,
            }
            for i, pair in enumerate(drawn)
        ),
    )
    norms = np.array([gradient.grad_norm for gradient in found])
    scored = np.stack([columns["logp_chosen"], columns["logp_rejected"]], axis=1)
    apart = np.abs(np.array([gradient[:2] for gradient in found]) - scored).max()
    meter.write(cost)
    return Summary(
        f"{len(drawn)} of {len(decided)} pairs",
        len(drawn),
        "pair",
        f"mean norm {norms.mean():.4g}, Spearman's ρ with pfp {spearman(metrics['pfp'], norms):.2f}, "
        f"log-probabilities within {apart:.2g} nats of the files'",
        meter.seconds,
    )


run(main)
