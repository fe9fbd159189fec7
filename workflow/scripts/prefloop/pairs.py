"""From scored responses to preference pairs: join, pair up, filter, keep the best by one metric."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefloop.metrics import Pairs, best_worst_pair, ordered_pairs
from prefloop.rows import InputError, by_prompt, read_rows


class Pair(NamedTuple):
    """Two joined rows (reward, logp, logp_ref, n_tokens) of one prompt, the first with the larger reward."""

    chosen: dict
    rejected: dict
    best_worst: bool


def read_responses(rewards: Path, pfp: Path, generations: Path | None = None) -> dict[str, list[dict]]:
    """Each prompt's responses with reward, log-probabilities and, if asked, text; joined on prompt and response id.

    Raises InputError if a response is missing from one of the files.
    """
    rows = read_rows(rewards, ["prompt_id", "cluster", "response_id", "reward"])
    others = {pfp: ["prompt_id", "response_id", "n_tokens", "logp"]}
    if generations is not None:
        others[generations] = ["prompt_id", "response_id", "response", "token_ids"]
    for path, required in others.items():
        found = {(row["prompt_id"], row["response_id"]): row for row in read_rows(path, required)}
        for i, row in enumerate(rows):
            key = row["prompt_id"], row["response_id"]
            if key not in found:
                raise InputError(f"{path}: no row for prompt {key[0]}, response {key[1]}, which {rewards} has")
            rows[i] = found[key] | row
    return by_prompt(rows)


def best_worst_pairs(groups: dict[str, list[dict]]) -> tuple[list[Pair], int]:
    """The best-against-worst pair of every prompt that has one, and how many prompts have none."""
    pairs = []
    for responses in groups.values():
        found = best_worst_pair(row["reward"] for row in responses)
        if found is not None:
            pairs.append(Pair(responses[found[0]], responses[found[1]], True))
    return pairs, len(groups) - len(pairs)


def all_pairs(groups: dict[str, list[dict]]) -> tuple[list[Pair], int]:
    """Every pair of a prompt's responses with different rewards, and how many pairs were tied."""
    pairs, ties = [], 0
    for responses in groups.values():
        rewards = [row["reward"] for row in responses]
        best_worst = best_worst_pair(rewards)
        ordered, tied = ordered_pairs(rewards)
        pairs += [Pair(responses[w], responses[l], (w, l) == best_worst) for w, l in ordered]  # noqa: E741
        ties += tied
    return pairs, ties


def to_columns(pairs: Iterable[Pair]) -> Pairs:
    """Pairs as the arrays [pairs] that metrics take."""
    pairs = list(pairs)
    columns = {"best_worst": np.array([pair.best_worst for pair in pairs], dtype=bool)}
    for side in ("chosen", "rejected"):
        rows = [getattr(pair, side) for pair in pairs]
        columns[f"logp_{side}"] = np.array([row["logp"] for row in rows], dtype=float)
        columns[f"n_{side}"] = np.array([row["n_tokens"] for row in rows], dtype=float)
        columns[f"reward_{side}"] = np.array([row["reward"] for row in rows], dtype=float)
    return columns


def gap_filters(gaps: np.ndarray, min_gap: float | None, quantile: float | None) -> dict[str, np.ndarray]:
    """Which pairs each filter of config keeps, by its key: bool [pairs]. The quantile is that of all `gaps`."""
    everything = np.ones(len(gaps), dtype=bool)
    threshold = np.quantile(gaps, quantile) if quantile is not None and len(gaps) else None
    return {
        "min_gap": everything if min_gap is None else gaps >= min_gap,
        "min_gap_quantile": everything if threshold is None else gaps >= threshold,
    }
