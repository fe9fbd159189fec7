"""Training a reward model on preference pairs, and what it is worth on pairs it has not seen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prefloop.batching import batches_by_length
from prefloop.intervals import mean_interval
from prefloop.optimisation import Optimisation, global_step, optimise
from prefloop.progress import Progress
from prefloop.prompts import identity
from prefloop.rows import InputError
from prefloop.seeds import seed_for

BINS = 5  # of the calibration table, by confidence from ½ to 1


class Encoded(NamedTuple):
    """Both responses of a pair as the model reads them: what the tokenizer returns for each."""

    chosen: dict
    rejected: dict

    @property
    def tokens(self) -> int:
        return len(self.chosen["input_ids"]) + len(self.rejected["input_ids"])


def half_of(rows: list[dict], part: str) -> list[dict]:
    """The rows whose conversation belongs to the `first` or `second` half, or all; conversations that begin alike
    stay together, so that two halves share none."""
    if part == "all":
        return rows
    wanted = {"first": 0, "second": 1}[part]
    return [row for row in rows if seed_for(0, "half", opening(row)) % 2 == wanted]


def split_by_conversation(rows: list[dict], held_out: float, rng: np.random.Generator) -> tuple[list[dict], list[dict]]:
    """(training, held-out) rows, conversations that begin alike on one side; InputError if a side would be empty."""
    openings = list(dict.fromkeys(map(opening, rows)))
    count = min(max(1, round(held_out * len(openings))), max(1, len(openings) - 1))
    kept_apart = {openings[i] for i in rng.permutation(len(openings))[:count]}
    sides = [row for row in rows if opening(row) not in kept_apart], [row for row in rows if opening(row) in kept_apart]
    if not sides[0]:
        raise InputError(
            f"{len(rows)} pair(s) in {len(openings)} conversation(s): at least two conversations are needed"
        )
    return sides


def opening(row: dict) -> str:
    """Identity of a conversation's first user message."""
    return identity([next(message for message in row["messages"] if message["role"] == "user")])


def bradley_terry(rewards_chosen: Tensor, rewards_rejected: Tensor) -> Tensor:
    """−log σ(r_w − r_l), shape [pairs] (Bradley and Terry 1952; as Stiennon et al. 2020 train reward models)."""
    return -F.logsigmoid(rewards_chosen - rewards_rejected)


def rewards(model, tokenizer, encoded: Sequence[dict]) -> Tensor:
    """The logit of every encoded conversation, [rows] float32."""
    device = next(model.parameters()).device
    return model(**tokenizer.pad(list(encoded), return_tensors="pt").to(device)).logits[:, 0].float()


def fit(
    model,
    tokenizer,
    pairs: list[Encoded],
    settings: Optimisation,
    *,
    seed: int,
    accelerator,
    **loop,
) -> None:
    """Train `model` in place; a step's loss is the mean of `bradley_terry` over its global batch.

    `loop` is what else `optimise` takes.
    """

    def take_step(model, step: int, epoch: int, indices: list[int]) -> dict:
        def columns_of(some: list[int]) -> Tensor:
            batch = [pairs[i] for i in some]
            with accelerator.autocast():
                both = rewards(model, tokenizer, [p.chosen for p in batch] + [p.rejected for p in batch])
            chosen, rejected = both.split(len(batch))
            return torch.stack([bradley_terry(chosen, rejected), chosen - rejected], dim=1)

        weight, size = dict.fromkeys(indices, 1 / len(indices)), settings.micro_batch_size
        values = global_step(model, indices, weight, columns_of, size, step, accelerator)
        return {
            "loss": values[:, 0].mean().item(),
            "accuracy": (values[:, 1] > 0).float().mean().item(),
            "tokens": sum(pairs[i].tokens for i in indices),
        }

    loop["stage"] = "reward_model"
    optimise(model, len(pairs), settings, take_step, seed=seed, accelerator=accelerator, **loop)


@torch.no_grad()
def reward_gaps(model, tokenizer, pairs: list[Encoded], batch_size: int) -> np.ndarray:
    """r(chosen) − r(rejected) of each pair, [pairs]."""
    rows = [side for pair in pairs for side in pair]
    found = np.zeros(len(rows))
    with Progress("reward_model (held out)", len(rows), "response") as progress:
        for batch in batches_by_length([len(row["input_ids"]) for row in rows], batch_size):
            found[batch] = rewards(model, tokenizer, [rows[i] for i in batch]).cpu().numpy()
            progress.update(len(batch))
    return found[0::2] - found[1::2]


def report(gaps: np.ndarray, length_differences: np.ndarray, rng: np.random.Generator) -> dict:
    """How right a reward model is on held-out pairs, and whether it beats counting characters.

    `gaps` [pairs] are its r(chosen) − r(rejected), `length_differences` [pairs] the chosen response's length minus
    the rejected one's; an equality is half right. `accuracy` and its lead over the better of the two baselines
    ("longer wins", "shorter wins") are [mean, low, high] with 95 % bootstrap intervals over pairs. `calibration`
    compares the confidence σ(|gap|) with the accuracy of the pairs that have it; its error is the mean difference.
    """
    right, longer = 0.5 * (1 + np.sign(gaps)), 0.5 * (1 + np.sign(length_differences))
    baseline = longer if longer.mean() >= 0.5 else 1 - longer
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    table = [
        {
            "pairs": int(count),
            "confidence": float(confidence[place == b].mean()),
            "accuracy": float(right[place == b].mean()),
        }
        for b, count in enumerate(np.bincount(place, minlength=BINS))
        if count
    ]
    return {
        "held_out_pairs": len(gaps),
        "accuracy": list(mean_interval(right, rng)),
        "longer_wins": float(longer.mean()),
        "shorter_wins": float(1 - longer.mean()),
        "lead_over_length": list(mean_interval(right - baseline, rng)),
        "log_loss": float(np.logaddexp(0, -gaps).mean()),
        "calibration_error": sum(bin["pairs"] * abs(bin["confidence"] - bin["accuracy"]) for bin in table) / len(gaps),
        "calibration": table,
    }


def warning(found: dict) -> str | None:
    """What to say of a reward model that has not been shown to beat a rule about length, from its `report`."""
    lead, low, high = found["lead_over_length"]
    best = max(("longer wins", found["longer_wins"]), ("shorter wins", found["shorter_wins"]), key=lambda rule: rule[1])
    if low > 0:
        return None
    verdict = "does not beat" if lead <= 0 else "has not been shown to beat"
    return (
        f'the reward model {verdict} "{best[0]}" on {found["held_out_pairs"]} held-out pairs: accuracy '
        f"{found['accuracy'][0]:.3f} against {best[1]:.3f}, lead {lead:+.3f} [{low:+.3f}, {high:+.3f}]; what it "
        "rewards may be length: train it on more pairs, or on pairs of the domain it will score"
    )
