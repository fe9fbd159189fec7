"""From scored responses to preference pairs: join, pair up, filter, keep the best by one metric."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from prefloop.metrics import Pairs, best_worst_pair, ordered_pairs
from prefloop.rows import InputError, iterate_placed, row_at

BATCH = 10  # prompts: with more, the token ids of so many responses no longer fit the processor's cache


class Pair(NamedTuple):
    """Two joined rows (reward, logp, logp_ref, n_tokens) of one prompt, the first preferred to the second.

    Where a judge decided, their rewards are the probabilities that it gave each against the other.
    """

    chosen: dict
    rejected: dict
    best_worst: bool


def read_responses(rewards: Path, pfp: Path, generations: Path | None = None) -> dict[str, list[dict]]:
    """Each prompt's responses with reward, log-probabilities and, if asked, text; joined on prompt and response id.

    Raises InputError if a response is missing from one of the files.
    """
    return dict(iterate_responses(rewards, pfp, generations))


def iterate_responses(rewards: Path, pfp: Path, generations: Path | None = None) -> Iterator[tuple[str, list[dict]]]:
    """As `read_responses`, one prompt at a time; a prompt's rewards must stand together, or InputError is raised."""
    seen: set[str] = set()
    for prompt_id, responses in groupby(joined(rewards, pfp, generations), itemgetter("prompt_id")):
        if prompt_id in seen:
            raise InputError(f"{rewards}: the rows of prompt {prompt_id} do not stand together; sort them by prompt")
        seen.add(prompt_id)
        yield prompt_id, list(responses)


def joined(rewards: Path, pfp: Path, generations: Path | None) -> Iterator[dict]:
    """Each response as one row, in the order of `rewards`, with the places of its rows in the files as `places`."""
    others = [Finder(pfp, numbers=["n_tokens", "logp", "logp_ref"])]
    if generations is not None:
        others.append(Finder(generations, ["response", "token_ids", "sampler", "component"]))
    for place, row in iterate_placed(rewards, ["prompt_id", "cluster", "response_id", "reward"]):
        key, places = (row["prompt_id"], row["response_id"]), [place]
        check_numbers(row, ["reward"] if row["reward"] is not None else [], rewards)
        for other in others:
            found = other.find(key)
            if found is None:
                where = f"prompt {key[0]}, response {key[1]}"
                raise InputError(f"{other.path}: no row for {where}, which {rewards} has; make it again")
            places.append(found[0])
            check_numbers(found[1], other.numbers, other.path)
            row = found[1] | row
        yield row | {"places": tuple(places)}


def check_numbers(row: dict, names: Iterable[str], path: Path) -> None:
    """InputError if a field of a response's row is no number."""
    for name in names:
        if not isinstance(row[name], int | float):
            where = f"prompt {row['prompt_id']}, response {row['response_id']}"
            raise InputError(f"{path}: {name} of {where} is {row[name]!r}, expected a number; make it again")


class Finder:
    """Finds a file's rows by prompt and response id, each once.

    It reads only as far as it must, and what comes before it is asked for waits in memory: nothing where the
    questions come in the file's own order, as they do here.
    """

    def __init__(self, path: Path, required: Sequence[str] = (), numbers: Sequence[str] = ()):
        self.path, self.numbers = path, numbers
        self.rows = iterate_placed(path, ["prompt_id", "response_id", *required, *numbers])
        self.waiting: dict[tuple, tuple[int, dict]] = {}

    def find(self, key: tuple) -> tuple[int, dict] | None:
        """(place, row) of the key; None if the file has no such row left."""
        while key not in self.waiting:
            place, row = next(self.rows, (0, None))
            if row is None:
                return None
            self.waiting[row["prompt_id"], row["response_id"]] = place, row
        return self.waiting.pop(key)


def read_again(files: Iterable[BinaryIO], places: Iterable[int]) -> dict:
    """The response whose rows lie at `places` of the files that `joined` read, opened in the same order."""
    response: dict = {}
    for file, place in zip(files, places, strict=True):
        response = row_at(file, place) | response
    return response


def in_batches(responses: Iterable[tuple[str, list[dict]]]) -> Iterator[dict[str, list[dict]]]:
    """Prompts with their responses, `BATCH` prompts at a time."""
    responses = iter(responses)
    while groups := dict(islice(responses, BATCH)):
        yield groups


def preferences(responses: list[dict]) -> list[tuple[int, int]]:
    """(chosen, rejected) places of every pair of a prompt's responses that the feedback has decided.

    By reward where every response has one of its own. A judge compares: then a pair is decided by its own verdict
    and no other, so that a tie or an invalid answer never becomes a preference by way of a third response.
    """
    if "beats" not in responses[0]:
        return ordered_pairs(row["reward"] for row in responses)[0]
    place = {row["response_id"]: i for i, row in enumerate(responses)}
    return [(w, place[loser]) for w, row in enumerate(responses) for loser in row["beats"]]


def best_worst_of(responses: list[dict]) -> tuple[int, int] | None:
    """The best against the worst response by reward, or None if the feedback has not decided between them."""
    judged = [i for i, row in enumerate(responses) if row["reward"] is not None]
    found = best_worst_pair(responses[i]["reward"] for i in judged) if judged else None
    pair = (judged[found[0]], judged[found[1]]) if found else None
    if "beats" not in responses[0]:
        return pair
    return pair if pair in preferences(responses) else None


def best_worst_pairs(groups: dict[str, list[dict]]) -> tuple[list[Pair], int]:
    """The best-against-worst pair of every prompt that has one, and how many prompts have none."""
    pairs = []
    for responses in groups.values():
        found = best_worst_of(responses)
        if found is not None:
            pairs.append(as_pair(responses, *found, found))
    return pairs, len(groups) - len(pairs)


def all_pairs(groups: dict[str, list[dict]]) -> tuple[list[Pair], int]:
    """Every decided pair of a prompt's responses, and how many pairs were not (tied, or without a valid verdict).

    Under sampler best_worst only the best response against the worst is one.
    """
    pairs, undecided = [], 0
    for responses in groups.values():
        best_worst, decided = best_worst_of(responses), preferences(responses)
        undecided += len(responses) * (len(responses) - 1) // 2 - len(decided)
        only = responses[0].get("sampler") == "best_worst"
        pairs += [
            as_pair(responses, w, l, best_worst)  # noqa: E741
            for w, l in decided  # noqa: E741
            if (w, l) == best_worst or not only
        ]
    return pairs, undecided


def as_pair(responses: list[dict], chosen: int, rejected: int, best_worst: tuple[int, int] | None) -> Pair:
    winner, loser = responses[chosen], responses[rejected]
    if "beats" in winner:
        p = preference(winner, loser)
        winner, loser = winner | {"reward": p}, loser | {"reward": 1 - p}
    return Pair(winner, loser, (chosen, rejected) == best_worst)


def preference(one: dict, other: dict) -> float:
    """The probability that a judge gave `one` against `other`, both orders averaged; either row holds their verdict."""
    for row, against, turned in [(one, other, False), (other, one, True)]:
        for response_id, first, second in row["judged"]:
            if response_id == against["response_id"]:
                p = (first + second) / 2
                return 1 - p if turned else p
    raise InputError(f"responses {one['response_id']} and {other['response_id']} of {one['prompt_id']} never met")


def to_columns(pairs: Iterable[Pair], beta: float | None = None) -> Pairs:
    """Pairs as the arrays [pairs] that metrics take, and β for those that ask for it."""
    pairs = list(pairs)
    columns = {"best_worst": np.array([pair.best_worst for pair in pairs], dtype=bool)}
    if beta is not None:
        columns["beta"] = np.array(beta)
    fields = {"logp": "logp", "logp_ref": "logp_ref", "n": "n_tokens", "reward": "reward"}
    for side in ("chosen", "rejected"):
        rows = [getattr(pair, side) for pair in pairs]
        for name, field in fields.items():
            columns[f"{name}_{side}"] = np.array([row[field] for row in rows], dtype=float)
    return columns


def stacked(parts: list[Pairs], beta: float) -> Pairs:
    """The columns of several parts as one, with β. The parts are emptied, so that no number is in memory twice."""
    names = list(parts[0])
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in names} | {"beta": np.array(beta)}


def choose(columns: Pairs, which: np.ndarray) -> Pairs:
    """The pairs that `which` indexes."""
    return {name: values[which] if values.ndim else values for name, values in columns.items()}


def gap_filters(gaps: np.ndarray, min_gap: float | None, quantile: float | None) -> dict[str, np.ndarray]:
    """Which pairs each filter of config keeps, by its key: bool [pairs]. The quantile is that of all `gaps`."""
    everything = np.ones(len(gaps), dtype=bool)
    threshold = np.quantile(gaps, quantile) if quantile is not None and len(gaps) else None
    return {
        "min_gap": everything if min_gap is None else gaps >= min_gap,
        "min_gap_quantile": everything if threshold is None else gaps >= threshold,
    }
