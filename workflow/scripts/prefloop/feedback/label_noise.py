"""Label noise: random numbers added to rewards, so that the better response is preferred only with a probability."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from prefloop.core.jsonl import by_prompt
from prefloop.core.seeds import rng_for


def gumbel_noise(rng: np.random.Generator, temperature: float) -> float:
    """A draw from the Gumbel distribution with scale τ, the temperature.

    The difference of two draws is logistic with scale τ, so P(r_i + g_i > r_j + g_j) = σ((r_i − r_j)/τ), which is the
    Bradley-Terry model for every pair. The order of n responses follows the Plackett-Luce model, so labels of a
    prompt's pairs never contradict each other.
    """
    return float(rng.gumbel(scale=temperature))


# By feedback.noise.kind: (generator, temperature) -> number to add to a response's reward.
NOISE: dict[str, Callable[[np.random.Generator, float], float]] = {
    "bradley_terry": gumbel_noise,
}


def add_noise(
    rows: Sequence[dict], responses: Sequence[dict], kind: str, temperature: float, seed: int, stream: str
) -> tuple[list[dict], list[int]]:
    """Add noise to rewards, and count the labels that it changes.

    The noise of a response depends only on the seed, kind, stream, prompt_id and response_id. So it does not depend on
    batches and shards, and methods with the same seed get the same noise. Responses to a prompt with the same text
    share it.

    Args:
        rows: Rows of rewards.jsonl. Each must have a reward.
        responses: Rows of generations.jsonl, at least those of `rows`.
        kind: Key of NOISE.
        temperature: Scale τ of the noise, in units of reward.
        seed: Seed of the run.
        stream: Name of the round and step.

    Returns:
        tuple: The rows with noise in `reward` and the original reward in `reward_true`; and [count, total] of changed
        labels, among pairs of responses with different texts and rewards.
    """
    texts = {(row["prompt_id"], row["response_id"]): row["response"] for row in responses}
    noise: dict[tuple[str, int], float] = {}
    flipped = total = 0
    for prompt_id, group in by_prompt(rows).items():
        first_ids: dict[str, int] = {}
        for row in sorted(group, key=lambda row: row["response_id"]):
            response_id = row["response_id"]
            first_id = first_ids.setdefault(texts[prompt_id, response_id], response_id)
            rng = rng_for(seed, "label_noise", kind, stream, prompt_id, first_id)
            noise[prompt_id, response_id] = NOISE[kind](rng, temperature)
        for a, b in combinations(group, 2):
            gap = a["reward"] - b["reward"]
            if gap and texts[prompt_id, a["response_id"]] != texts[prompt_id, b["response_id"]]:
                added = noise[prompt_id, a["response_id"]] - noise[prompt_id, b["response_id"]]
                flipped, total = flipped + (gap * (gap + added) < 0), total + 1
    noisy = [
        row | {"reward": row["reward"] + noise[row["prompt_id"], row["response_id"]], "reward_true": row["reward"]}
        for row in rows
    ]
    return noisy, [flipped, total]
