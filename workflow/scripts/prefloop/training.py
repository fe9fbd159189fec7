"""One round of preference training: what a step does with a batch of pairs, on the loop of `optimisation`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefloop.betas import BETAS, Betas
from prefloop.losses import LossOptions, asks_for, evaluate, terms
from prefloop.optimisation import Optimisation, gather_rows, global_step, micro_batches, optimise
from prefloop.rows import choice
from prefloop.scoring import response_logps, tokens_read
from prefloop.seeds import rng_for

COLUMNS = ("loss", "margin", "logp_chosen", "logp_rejected", "logp_ref_chosen", "logp_ref_rejected")


@dataclass
class Settings(LossOptions, Betas, Optimisation):
    """How a round trains; the names are those of config's `train`."""

    loss: str = "dpo"
    """Word of prefloop.losses.LOSSES."""


@dataclass
class Pair:
    """One preference pair as token ids, with what does not change while the policy trains."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    logp_ref_chosen: float
    """The reference's log-probability of the chosen response, in nats."""
    logp_ref_rejected: float
    reward_chosen: float = 0.0
    reward_rejected: float = 0.0
    explored: list[int] | None = None
    """A response to the prompt that the reference sampled, for xpo."""

    @property
    def responses(self) -> list[list[int]]:
        """What a pass reads behind the prompt."""
        more = [] if self.explored in (None, self.chosen, self.rejected) else [self.explored]
        return [self.chosen, self.rejected, *more]


def train(
    model,
    pairs: list[Pair],
    settings: Settings,
    *,
    round: int = 1,
    pad: int,
    seed: int,
    accelerator,
    beta_state: dict | None = None,
    **loop,
) -> dict:
    """Train `model` in place on `pairs` and return the β rule's state; `loop` is what else `optimise` takes.

    The loss of a step is the mean over its global batch, or over the pairs that the β rule keeps, however the
    batch is cut into processes and micro-batches. `beta_state` is the state that a round before returned.
    Reference log-probabilities come with the pairs, so no reference model is held.
    Raises InputError if the loss stops being finite.
    """
    rule = choice(BETAS, settings.beta_rule, "train.beta_rule")(settings, round)
    if beta_state is not None:
        rule.load_state_dict(beta_state)

    def take_step(model, step: int, epoch: int, indices: list[int]) -> dict:
        size = settings.micro_batch_size

        def terms_of(some: list[int]) -> dict[str, Tensor]:
            return forward(model, [pairs[i] for i in some], settings.loss, pad, accelerator)

        ahead = look_ahead(terms_of, indices, size, accelerator) if rule.reads_batch else Ahead(None, {}, 1)
        beta, kept = rule.weigh(ahead.margins, epoch=epoch, rng=rng_for(seed, "beta", step))
        weight = weights_of(indices, kept)

        def columns_of(some: list[int]) -> Tensor:
            found = ahead.held.pop(tuple(some), None) or terms_of(some)
            losses = evaluate(settings.loss, found, beta, settings)
            return torch.stack([losses, *(found[name] for name in COLUMNS[1:])], dim=1)

        values = global_step(model, indices, weight, columns_of, size, step, accelerator)
        loss = (torch.tensor([weight[i] for i in indices]) * values[:, 0]).sum().item()
        rule.observe(values[:, 1].double().numpy())
        read = [(pairs[i].prompt, pairs[i].responses) for i in indices]
        tokens = sum(tokens_read(model, [prompt] * len(responses), responses) for prompt, responses in read)
        return {"loss": loss} | step_metrics(values, beta) | rule.log() | {"tokens": tokens, "passes": ahead.passes}

    optimise(model, len(pairs), settings, take_step, seed=seed, accelerator=accelerator, carried=rule, **loop)
    return rule.state_dict()


class Ahead(NamedTuple):
    """What was seen of a batch before its loss: the global batch's margins, and graphs that need no second pass."""

    margins: np.ndarray | None
    held: dict[tuple[int, ...], dict[str, Tensor]]
    passes: int


def look_ahead(terms_of: Callable[[list[int]], dict[str, Tensor]], indices: list[int], size: int, accelerator) -> Ahead:
    """The margins [pairs] of the global batch. One micro-batch keeps its graph for the loss; of several none could
    be kept without the memory of all, so they pass once more."""
    micros = micro_batches(indices, size, accelerator)
    alone = len(micros) == 1
    with torch.set_grad_enabled(alone):
        found = [terms_of(micro or indices[:1]) for micro in micros]
    local = [terms["margin"][: len(micro), None] for terms, micro in zip(found, micros, strict=True)]
    margins = gather_rows(torch.cat(local), accelerator)[:, 0].double().numpy()
    return Ahead(margins, {tuple(micros[0] or indices[:1]): found[0]} if alone else {}, 1 if alone else 2)


def weights_of(indices: list[int], kept: np.ndarray | None) -> dict[int, float]:
    """The weight of each pair in the loss: a mean over the batch, or over those of its pairs that are kept."""
    if kept is None:
        return dict.fromkeys(indices, 1 / len(indices))
    return dict.fromkeys(indices, 0.0) | {indices[i]: 1 / len(kept) for i in kept}


def forward(model, batch: Sequence[Pair], loss: str, pad: int, accelerator) -> dict[str, Tensor]:
    """What a loss may ask for (`losses.terms`) and the log-probabilities themselves, each [pairs]; one pass."""
    responses = [pair.chosen for pair in batch] + [pair.rejected for pair in batch]
    prompts = [pair.prompt for pair in batch] * 2
    place = explored_rows(batch, responses, prompts) if "logp_explored" in asks_for(loss) else None
    with accelerator.autocast():
        logps = response_logps(model, prompts, responses, pad)

    def column(values) -> Tensor:
        return torch.tensor(list(values), dtype=torch.float32, device=logps.device)

    known = {
        "logp_chosen": logps[: len(batch)],
        "logp_rejected": logps[len(batch) : 2 * len(batch)],
        "logp_ref_chosen": column(pair.logp_ref_chosen for pair in batch),
        "logp_ref_rejected": column(pair.logp_ref_rejected for pair in batch),
    }
    found = terms(
        **known,
        n_chosen=column(len(pair.chosen) for pair in batch),
        n_rejected=column(len(pair.rejected) for pair in batch),
        reward_chosen=column(pair.reward_chosen for pair in batch),
        reward_rejected=column(pair.reward_rejected for pair in batch),
        logp_explored=None if place is None else logps[place],
    )
    return found | known


def explored_rows(batch: Sequence[Pair], responses: list[list[int]], prompts: list[list[int]]) -> list[int]:
    """The row of each pair's explored response: one of the pair's own two, or one more, put at the end of the lists."""
    rows = []
    for i, pair in enumerate(batch):
        own = {tuple(pair.chosen): i, tuple(pair.rejected): len(batch) + i}
        row = own.get(tuple(pair.explored))
        if row is None:
            row = len(responses)
            responses.append(pair.explored)
            prompts.append(pair.prompt)
        rows.append(row)
    return rows


def step_metrics(values: Tensor, beta: float) -> dict:
    """What training.jsonl says of a step, from the global batch's `COLUMNS` [pairs, 6] and its β."""
    _, margins, chosen, rejected, ref_chosen, ref_rejected = values.T
    positive = (margins > 0).float().mean().item()
    p10, median, p90 = np.quantile(margins.numpy(), [0.1, 0.5, 0.9]).tolist()
    return {
        "rewards/chosen": (beta * (chosen - ref_chosen)).mean().item(),
        "rewards/rejected": (beta * (rejected - ref_rejected)).mean().item(),
        "rewards/margins": (beta * margins).mean().item(),
        "rewards/accuracies": positive,
        "logps/chosen": chosen.mean().item(),
        "logps/rejected": rejected.mean().item(),
        "margins/mean": margins.mean().item(),
        "margins/sd": margins.std().item() if len(margins) > 1 else 0.0,
        "margins/min": margins.min().item(),
        "margins/p10": p10,
        "margins/median": median,
        "margins/p90": p90,
        "margins/max": margins.max().item(),
        "margins/positive": positive,
        "beta": beta,
    }
