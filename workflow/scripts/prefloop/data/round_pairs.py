"""Reads the pairs of a round twice: first the numbers by which pairs are selected, then the selected pairs' texts.

Texts and token ids of an entire round are never in memory.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefloop.core.errors import InputError
from prefloop.core.jsonl import row_at
from prefloop.core.progress import Progress
from prefloop.data.pairs import (
    ChoosePair,
    Pair,
    all_pairs,
    concatenate,
    count_identical,
    count_invalid,
    pair_by_ids,
    to_columns,
)
from prefloop.data.pfp_rows import in_batches, read_joined
from prefloop.methods.pair_metrics import Pairs


@dataclass(frozen=True)
class RoundPairs:
    """All decided pairs of some steps: the numbers that metrics use, and the locations of the texts."""

    paths: Sequence[Path]
    """pfp.jsonl of each step."""
    columns: Pairs
    """Arrays [pairs] by name, and β."""
    prompt_ids: list[str]
    """[pairs]"""
    steps: np.ndarray
    """int64 [pairs], index of the pair's step in `paths`."""
    offsets: np.ndarray
    """int64 [pairs], byte offset in that file of the row with the pair's prompt."""
    response_ids: np.ndarray
    """int64 [pairs, 2], ids of the chosen and the rejected response."""
    undecided: int
    """Number of pairs that the feedback has not decided."""
    identical: int
    """Number of pairs of identical responses, which are omitted although the feedback has decided them."""
    invalid: int
    """Number of undecided pairs without a valid judgment of the judge."""

    def __len__(self) -> int:
        return len(self.offsets)


def scan_pairs(
    paths: Sequence[Path], beta: float | None = None, choose_pair: ChoosePair | None = None, variance: bool = True
) -> RoundPairs:
    """Scan the pairs of all steps, or only the pair that `choose_pair` chooses for each prompt.

    `beta` and `variance` are as in `to_columns`. Only a few prompts at a time are in memory.
    """
    columns, prompt_ids, undecided, identical, invalid = [], [], 0, 0, 0
    steps, offsets, response_ids = array("q"), array("q"), array("q")
    with Progress("pairs", None, "prompt") as progress:
        for step, path in enumerate(paths):
            rows = (row | {"offset": offset} for offset, row in read_joined(path))
            for batch in in_batches(rows):
                pairs, undecided_of_batch = all_pairs(batch, choose_pair)
                undecided += undecided_of_batch
                identical += count_identical(batch)
                invalid += count_invalid(batch)
                columns.append(to_columns(pairs, variance=variance))
                for prompt, chosen, rejected in pairs:
                    prompt_ids.append(prompt["prompt_id"])
                    steps.append(step)
                    offsets.append(prompt["offset"])
                    response_ids.extend((chosen["response_id"], rejected["response_id"]))
                progress.update(len(batch))
    ids = np.array(response_ids).reshape(-1, 2)
    arrays = np.array(steps), np.array(offsets), ids
    return RoundPairs(paths, concatenate(columns, beta), prompt_ids, *arrays, undecided, identical, invalid)


def read_pairs(pairs: RoundPairs, indices: Sequence[int] | np.ndarray) -> Iterator[Pair]:
    """Yield the pairs at these indices, with all fields of pfp.jsonl."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in pairs.paths]
        for i in indices:
            yield pair_by_ids(row_at(files[pairs.steps[i]], pairs.offsets[i]), *pairs.response_ids[i])


def prefix_logprob(response: dict, pair: Pair) -> float:
    """Return the reference's log-probability of a response, cut to the length of the pair's shorter response.

    Raises:
        InputError: The row has no log-probability for this number of tokens.
    """
    shared = min(pair.chosen["n_tokens"], pair.rejected["n_tokens"])
    if response["n_tokens"] <= shared:
        return response["logp_ref"]
    if str(shared) not in response["logp_ref_prefixes"]:
        raise InputError(
            f"prompt {pair.prompt['prompt_id']}: logp_ref_prefixes of response {response['response_id']} lack {shared} "
            "tokens; make the log-probabilities again"
        )
    return response["logp_ref_prefixes"][str(shared)]


def training_row(pair: Pair) -> dict:
    """Return a row of pairs.jsonl without metric and score. `token_ids_explored` is a response of the reference."""
    row = {name: pair.prompt[name] for name in ("prompt_id", "cluster", "messages")}
    for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row |= {
            side: response["response"],
            f"response_id_{side}": response["response_id"],
            f"component_{side}": response["component"],
            f"token_ids_{side}": response["token_ids"],
            f"reward_{side}": response["reward"],
            f"n_{side}": response["n_tokens"],
            f"logp_{side}": response["logp"],
            f"logp_ref_{side}": response["logp_ref"],
        }
        if "logp_ref_prefixes" in response:
            row[f"logp_ref_prefix_{side}"] = prefix_logprob(response, pair)
    candidates = (pair.chosen, pair.rejected, *pair.prompt["responses"])
    explored = next((response for response in candidates if response["component"] == "reference"), None)
    return row | ({} if explored is None else {"token_ids_explored": explored["token_ids"]})
