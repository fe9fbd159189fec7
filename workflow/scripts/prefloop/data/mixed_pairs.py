"""Pairs that a round trains on in addition to its own: pairs of earlier rounds and pairs of the data set."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefloop.config.training_settings import MixConfig
from prefloop.core.errors import InputError
from prefloop.core.jsonl import has_pair, iterate_with_offsets, row_at
from prefloop.core.seeds import rng_for

OWN, REPLAY, DATASET = "own", "replay", "dataset"  # origins of a pair
Encode = Callable[[list[dict], str], list[int]]
"""Returns the token ids of a given response to messages."""


class RowPlace(NamedTuple):
    """The location of a row in a file."""

    path: Path
    offset: int
    """Offset of its line, in bytes."""
    round: int
    """The round in which its pair was selected, or, for a pair of the data set, drawn."""


def draw_additions(
    own: int,
    settings: MixConfig,
    earlier: Sequence[Path],
    prompts: Path | None,
    seed: int,
    round_index: int,
    encode: Encode,
) -> tuple[list[dict], str]:
    """Draw the pairs that are added to a round's own.

    Args:
        own: Number of the round's own pairs.
        settings: The shares of added pairs.
        earlier: pairs.jsonl of the previous rounds, the latest first.
        prompts: All training prompts, for pairs of the data set.
        seed: The run's seed.
        round_index: Round, from 1.
        encode: Returns the token ids of responses of the data set.

    Returns:
        Rows of mixed_pairs.jsonl, without log-probabilities for pairs of the data set, and a warning, which is empty if
        there are as many rows as requested.

    Raises:
        InputError: Pairs of the data set are requested, but no prompt has one.
    """
    shares = {REPLAY: settings.replay.share, DATASET: settings.offline_share}
    places = {REPLAY: earlier_pairs(earlier, round_index), DATASET: [] if prompts is None else data_set_pairs(prompts)}
    places[DATASET] = [place._replace(round=round_index) for place in places[DATASET]]
    if settings.offline_share and not places[DATASET]:
        raise InputError(f"{prompts}: no prompt comes with a pair of responses; set pairs.offline_share to 0")
    counts = count_additions(own, shares, {origin: len(candidates) for origin, candidates in places.items()})
    rows, missing = [], []
    for origin, count in counts.items():
        if count > len(places[origin]):
            missing.append(f"{len(places[origin])} of {count} of origin {origin}")
        for place, row in read_drawn(places[origin], count, rng_for(seed, "mix", origin, round_index)):
            row = row if origin == REPLAY else data_set_row(row, encode)
            rows.append(row | {"origin": origin, "round": place.round})
    warning = f"fewer pairs than asked for: {', '.join(missing)}; lower the shares of section pairs" if missing else ""
    return rows, warning


def count_additions(own: int, shares: Mapping[str, float], candidates: Mapping[str, int]) -> dict[str, int]:
    """Return the number of pairs of each origin that are added to a round's own.

    An origin without candidates, such as earlier rounds in round 1, is ignored. The others keep their shares.

    Args:
        own: Number of the round's own pairs.
        shares: Fraction of all pairs, including own ones, by origin. The sum is less than 1.
        candidates: Number of available pairs by origin.
    """
    active = {origin: share for origin, share in shares.items() if share > 0 and candidates[origin]}
    total = own / (1 - sum(active.values()))
    return {origin: round(share * total) for origin, share in active.items()}


def earlier_pairs(paths: Sequence[Path], round_index: int) -> list[RowPlace]:
    """Return the locations of all rows in pairs.jsonl of the rounds before `round_index`, the latest first."""
    return [
        RowPlace(path, offset, round_index - back)
        for back, path in enumerate(paths, start=1)
        for offset, _ in iterate_with_offsets(path, ["prompt_id", "messages", "token_ids_chosen", "token_ids_rejected"])
    ]


def data_set_pairs(prompts: Path) -> list[RowPlace]:
    """Return the locations of the prompts with a chosen and a rejected response that differ."""
    rows = iterate_with_offsets(prompts, ["prompt_id", "messages"])
    return [RowPlace(prompts, offset, 0) for offset, row in rows if has_pair(row) and row["chosen"] != row["rejected"]]


def read_drawn(places: Sequence[RowPlace], count: int, rng: np.random.Generator) -> list[tuple[RowPlace, dict]]:
    """Draw at most `count` rows at random, without replacement, and return them in the order of `places`."""
    drawn = rng.choice(len(places), size=min(count, len(places)), replace=False)
    rows = []
    for i in sorted(drawn.tolist()):
        with places[i].path.open("rb") as file:
            rows.append((places[i], row_at(file, places[i].offset)))
    return rows


def data_set_row(prompt: dict, encode: Encode) -> dict:
    """Return a prompt's pair of the data set as a row of pairs, with the rewards of feedback `dataset`: 1 and 0."""
    row = {"prompt_id": prompt["prompt_id"], "cluster": prompt.get("cluster"), "messages": prompt["messages"]}
    for number, side in enumerate(("chosen", "rejected")):
        token_ids = encode(prompt["messages"], prompt[side])
        row |= {
            side: prompt[side],
            f"response_id_{side}": number,
            f"component_{side}": side,
            f"token_ids_{side}": token_ids,
            f"reward_{side}": 1.0 - number,
            f"n_{side}": len(token_ids),
        }
    return row
