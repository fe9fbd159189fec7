"""Preference training: any loss with any β rule, on pairs with the reference's log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prefloop.config.training_settings import TrainConfig
from prefloop.core.jsonl import read_rows
from prefloop.core.registry import lookup
from prefloop.methods.batch_terms import BATCH_TERMS, compute_batch_terms, terms_read
from prefloop.methods.beta_rules import BETAS
from prefloop.methods.losses import LossChoice, compute_losses, loss_parameters, loss_terms, wpo_weights
from prefloop.models.batching import send, send_lists
from prefloop.models.chat import DEFAULT_FORMAT, ChatFormat, prompt_ids
from prefloop.models.distributed import gather_rows
from prefloop.models.positions import check_positions, check_vocabulary
from prefloop.models.response_logprobs import (
    Scorer,
    discounted_logprobs,
    logprobs_and_collisions,
    response_logprobs,
    tokens_read,
)
from prefloop.training.loop import Batch, Metrics

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

STATISTICS = ("margin", "logp_chosen", "logp_rejected", "logp_ref_chosen", "logp_ref_rejected")
SIDES = ("chosen", "rejected")
COLLISIONS = ("mean_collision_chosen", "mean_collision_rejected")  # what wpo_sampled divides by
TOKENS = ("token_ids_chosen", "token_ids_rejected", "token_ids_explored")
PAIR_COLUMNS = ["messages", "token_ids_chosen", "token_ids_rejected", "logp_ref_chosen", "logp_ref_rejected"]
PAIR_COLUMNS += ["reward_chosen", "reward_rejected"]  # columns of pairs.jsonl
PREFIX_COLUMNS = [f"logp_ref_prefix_{side}" for side in SIDES]  # columns of pairs.jsonl that ld_alpha needs


@dataclass
class TokenizedPair:
    """One preference pair as token ids, with all values that stay constant during training."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    logp_ref_chosen: float
    """The reference's log-probability of the chosen response, in nats."""
    logp_ref_rejected: float
    reward_chosen: float = 0.0
    reward_rejected: float = 0.0
    explored: list[int] | None = None
    """A response to the prompt that was sampled from the reference, for xpo."""

    @property
    def responses(self) -> list[list[int]]:
        """The responses that a forward pass reads after the prompt."""
        responses = [self.chosen, self.rejected]
        if self.explored is not None and self.explored not in responses:
            responses.append(self.explored)
        return responses


def pair_from_row(
    row: dict[str, Any], tokenizer: "PreTrainedTokenizerBase", loss: LossChoice, chat: ChatFormat = DEFAULT_FORMAT
) -> TokenizedPair:
    """Convert a row of pairs.jsonl to the form that the loss needs."""
    return TokenizedPair(
        prompt=prompt_ids(tokenizer, row["messages"], chat),
        chosen=row["token_ids_chosen"],
        rejected=row["token_ids_rejected"],
        logp_ref_chosen=row["logp_ref_chosen"],
        logp_ref_rejected=row["logp_ref_rejected"],
        reward_chosen=row["reward_chosen"],
        reward_rejected=row["reward_rejected"],
        explored=row.get("token_ids_explored") if "logp_explored" in loss_parameters(loss) else None,
    )


def discounted_reference(row: dict[str, Any], ld_alpha: float) -> dict[str, float]:
    """A row's reference log-probabilities, with tokens after the shorter response's length scaled by `ld_alpha`."""
    prefixes = {f"logp_ref_{side}": row[f"logp_ref_prefix_{side}"] for side in SIDES}
    return {name: prefix + ld_alpha * (row[name] - prefix) for name, prefix in prefixes.items()}


def tokenize_pairs(
    path: Path,
    tokenizer: "PreTrainedTokenizerBase",
    settings: TrainConfig,
    model: Path,
    chat: ChatFormat = DEFAULT_FORMAT,
) -> list[TokenizedPair]:
    """Read a pairs.jsonl and convert its rows to the form that the loss needs.

    Raises:
        InputError: A row lacks a column, is too long for the model of the manifest `model`, or has unknown token ids.
    """
    alpha = settings.ld_alpha
    rows = read_rows(path, PAIR_COLUMNS + ([] if alpha is None else PREFIX_COLUMNS))
    if alpha is not None:
        rows = [row | discounted_reference(row, alpha) for row in rows]
    check_vocabulary(model, rows, TOKENS, path)
    pairs = [pair_from_row(row, tokenizer, settings.loss, chat) for row in rows]
    check_positions(model, max(len(pair.prompt) + max(map(len, pair.responses)) for pair in pairs))
    return pairs


class PreferenceObjective:
    """The mean preference loss of a global batch, or of the pairs in it that the β rule keeps.

    No reference model is needed, because the pairs have its log-probabilities. Rounds count from 1.

    Raises:
        SettingError: The loss or β rule is unknown, or the rule does not allow its constants.
    """

    stage, unit = "train", "pair"

    def __init__(
        self,
        scorer: Scorer,
        pairs: Sequence[TokenizedPair],
        settings: TrainConfig,
        accelerator: "Accelerator",
        round_index: int = 1,
    ) -> None:
        self.scorer, self.pairs, self.settings, self.accelerator = scorer, pairs, settings, accelerator
        self.rule = lookup(BETAS, settings.beta_rule, "beta_rule")(settings, round_index)
        self.loss_reads = loss_parameters(settings.loss)
        self.reads_explored = "logp_explored" in self.loss_reads
        # Terms that the loss needs for all pairs of a batch, and whether any of them needs a forward pass of the
        # policy.
        self.batch_reads = set().union(*(terms_read(name) for name in BATCH_TERMS if name in self.loss_reads))
        self.reads_batch = self.rule.reads_batch or not self.batch_reads <= {"n_chosen", "n_rejected"}
        self.tokens_of_pair = [tokens_read(scorer, [p.prompt] * len(p.responses), p.responses) for p in pairs]
        # State of the current step, set by `begin_step`:
        self.beta = self.rule.beta
        self.weights: dict[int, float] = {}
        self.passes = 1
        self.kept_terms: dict[str, Tensor] | None = None  # with their graph, so that the loss needs no second pass
        self.batch_terms: dict[str, dict[int, float]] = {}  # for each pair that counts

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens(self, indices: list[int]) -> int:
        """Tokens of the pairs' prompts and responses; without packing, of one padded row per response."""
        if self.scorer.packed:
            return sum(self.tokens_of_pair[i] for i in indices)
        rows = [len(self.pairs[i].prompt) + len(r) - 1 for i in indices for r in self.pairs[i].responses]
        return len(rows) * max(rows)

    def begin_step(self, batch: Batch, rng: np.random.Generator) -> dict[int, float]:
        """Get β and the pairs that count from the β rule.

        A rule or a loss that needs log-probabilities of the whole batch requires a forward pass first.
        """
        values = self.precompute_terms(batch) if self.reads_batch else {}
        margins = values["margin"].numpy() if self.rule.reads_batch else None
        self.beta, kept = self.rule.weigh(margins, epoch=batch.epoch, rng=rng)
        counted = list(range(len(batch.indices))) if kept is None else kept.tolist()
        if kept is None:
            self.weights = dict.fromkeys(batch.indices, 1 / len(batch.indices))
        else:
            self.weights = dict.fromkeys(batch.indices, 0.0) | {batch.indices[i]: 1 / len(kept) for i in kept}
        if self.batch_reads:
            self.batch_terms = self.compare_pairs(values, [batch.indices[i] for i in counted], counted)
        return self.weights

    def precompute_terms(self, batch: Batch) -> dict[str, Tensor]:
        """The margins of the global batch, and the terms that its loss needs: each [pairs], float64, on the CPU.

        A single micro-batch keeps its graph for the loss. Several micro-batches would need the memory of all graphs,
        so they pass through the model a second time (with other dropout masks, if adapters have dropout).
        """
        is_single = len(batch.micro_batches) == 1
        with torch.set_grad_enabled(is_single):
            computed = [self.terms_of(batch.inputs(micro_batch)) for micro_batch in batch.micro_batches]
        self.kept_terms, self.passes = (computed[0], 1) if is_single else (None, 2)
        names = ["margin", *sorted(self.batch_reads - {"margin"})]
        rows = [
            torch.stack([terms[name].detach() for name in names], dim=1)[: len(micro_batch)]
            for terms, micro_batch in zip(computed, batch.micro_batches, strict=True)
        ]
        return dict(zip(names, gather_rows(torch.cat(rows), self.accelerator).double().T, strict=True))

    def compare_pairs(
        self, values: dict[str, Tensor], pairs: list[int], positions: list[int]
    ) -> dict[str, dict[int, float]]:
        """The loss's batch terms over the `pairs` that count: by name, then by pair.

        `values` are precomputed terms of all pairs of the batch, and `positions` are those of `pairs` among them.
        """
        known = known_columns([self.pairs[i] for i in pairs], torch.device("cpu"))
        terms = known | {name: column[positions] for name, column in values.items()}
        found = compute_batch_terms(self.loss_reads, terms)
        return {name: dict(zip(pairs, column.tolist(), strict=True)) for name, column in found.items()}

    def losses(self, micro_batch: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and STATISTICS, each [pairs]."""
        computed = self.terms_of(micro_batch) if self.kept_terms is None else self.kept_terms
        self.kept_terms = None
        terms = computed | self.batch_terms_of(micro_batch)
        losses = compute_losses(self.settings.loss, terms, self.beta, self.settings)
        if self.settings.pair_weights is not None:
            collisions = {name: computed[name] for name in COLLISIONS if name in computed}
            means = {f"mean_logp_{side}": computed[f"logp_{side}"] / computed[f"n_{side}"] for side in SIDES}
            losses = losses * wpo_weights(**means, **collisions)
        return losses, {name: computed[name] for name in STATISTICS}

    def batch_terms_of(self, indices: list[int]) -> dict[str, Tensor]:
        """The loss's batch terms of these pairs, each [pairs]; 1 for pairs that do not count."""
        columns = [[values.get(i, 1.0) for i in indices] for values in self.batch_terms.values()]
        if not columns:
            return {}
        sent = send(torch.tensor(columns, dtype=torch.float32), self.accelerator.device)
        return dict(zip(self.batch_terms, sent, strict=True))

    def terms_of(self, indices: list[int]) -> dict[str, Tensor]:
        """The terms of `losses.loss_terms` and log-probabilities, from one forward pass; each [pairs]."""
        pairs = [self.pairs[i] for i in indices]
        responses = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        prompts = [pair.prompt for pair in pairs] * 2
        device = self.accelerator.device
        # Copied before the forward pass, so that the copy does not wait for its end.
        explored = send_lists([add_explored(pairs, prompts, responses)], device) if self.reads_explored else None
        known = known_columns(pairs, device)
        collisions: dict[str, Tensor] = {}
        if self.settings.pair_weights == "wpo_sampled":
            logps, sums = logprobs_and_collisions(self.scorer, prompts, responses)
            lengths = torch.cat([known["n_chosen"], known["n_rejected"]])
            means = (sums[: len(lengths)] / lengths).split(len(pairs))
            collisions = dict(zip(COLLISIONS, means, strict=True))
        elif self.settings.ld_alpha is not None:
            shared = [min(len(pair.chosen), len(pair.rejected)) for pair in pairs] * 2
            shared += [len(response) for response in responses[len(shared) :]]
            logps = discounted_logprobs(self.scorer, prompts, responses, shared, self.settings.ld_alpha)
        else:
            logps = response_logprobs(self.scorer, prompts, responses)
        logprobs = {"logp_chosen": logps[: len(pairs)], "logp_rejected": logps[len(pairs) : 2 * len(pairs)]}
        logp_explored = None if explored is None else logps[explored[0]]
        references = {f"logp_ref_{side}": known[f"logp_ref_{side}"] for side in SIDES}
        return loss_terms(**logprobs, **known, logp_explored=logp_explored) | logprobs | references | collisions

    def end_step(self, batch: Batch, values: dict[str, Tensor]) -> Metrics:
        """Update the β rule with the margins and return the step's metrics."""
        self.rule.observe(values["margin"].double().numpy())
        loss = (torch.tensor([self.weights[i] for i in batch.indices]) * values["loss"]).sum().item()
        work = {"tokens": sum(self.tokens_of_pair[i] for i in batch.indices), "passes": self.passes}
        return {"loss": loss} | step_metrics(values, self.beta) | self.rule.log() | work

    def state_dict(self) -> dict[str, Any]:
        """The β rule's state."""
        return self.rule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a β rule's state.

        Raises:
            InputError: The state belongs to another rule.
        """
        self.rule.load_state_dict(state)


def known_columns(pairs: Sequence[TokenizedPair], device: torch.device) -> dict[str, Tensor]:
    """Arguments of `losses.loss_terms` other than log-probabilities of the policy: each [pairs], float32, in one
    copy."""
    rows = {
        "logp_ref_chosen": [pair.logp_ref_chosen for pair in pairs],
        "logp_ref_rejected": [pair.logp_ref_rejected for pair in pairs],
        "n_chosen": [len(pair.chosen) for pair in pairs],
        "n_rejected": [len(pair.rejected) for pair in pairs],
        "reward_chosen": [pair.reward_chosen for pair in pairs],
        "reward_rejected": [pair.reward_rejected for pair in pairs],
    }
    columns = send(torch.tensor(list(rows.values()), dtype=torch.float32), device)
    return dict(zip(rows, columns, strict=True))


def add_explored(pairs: Sequence[TokenizedPair], prompts: list[list[int]], responses: list[list[int]]) -> list[int]:
    """Index of each pair's explored response among `responses`, which are all chosen ones, then all rejected ones.

    If it is not one of the pair's two responses, it is appended to `responses`, and its prompt to `prompts`.
    """
    indices = []
    for i, pair in enumerate(pairs):
        assert pair.explored is not None, "the loss needs an explored response"
        own = {tuple(pair.chosen): i, tuple(pair.rejected): len(pairs) + i}
        index = own.get(tuple(pair.explored))
        if index is None:
            index = len(responses)
            responses.append(pair.explored)
            prompts.append(pair.prompt)
        indices.append(index)
    return indices


def step_metrics(values: dict[str, Tensor], beta: float) -> Metrics:
    """Metrics of a step, from STATISTICS of its global batch, each [pairs], and its β."""
    margins = values["margin"]
    implicit_rewards = {side: beta * (values[f"logp_{side}"] - values[f"logp_ref_{side}"]) for side in SIDES}
    positive = (margins > 0).float().mean().item()
    p10, median, p90 = np.quantile(margins.numpy(), [0.1, 0.5, 0.9]).tolist()
    return {
        "rewards/chosen": implicit_rewards["chosen"].mean().item(),
        "rewards/rejected": implicit_rewards["rejected"].mean().item(),
        "rewards/margins": (beta * margins).mean().item(),
        "rewards/accuracies": positive,
        "logps/chosen": values["logp_chosen"].mean().item(),
        "logps/rejected": values["logp_rejected"].mean().item(),
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
