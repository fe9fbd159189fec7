"""Add pairs of earlier rounds and of the data set to a round's own pairs."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from _program import run
from prefloop.config.generation_settings import LogprobsConfig
from prefloop.config.training_settings import MixConfig
from prefloop.core.costs import CostMeter
from prefloop.core.jsonl import iterate_rows, write_rows
from prefloop.core.progress import Summary
from prefloop.data.mixed_pairs import OWN, REPLAY, draw_additions
from prefloop.models.chat import ChatFormat, load_tokenizer, prompt_ids, read_format, response_ids
from prefloop.models.devices import default_device, resolve_dtype
from prefloop.models.loading import load_scorers
from prefloop.models.manifests import is_trusted, parameter_count
from prefloop.models.pair_logprobs import score_pairs
from prefloop.models.positions import check_positions, check_vocabulary


def main(
    *,
    model: Path,
    policy: Path,
    reference: Path,
    pairs: Path,
    output: Path,
    cost: Path,
    seed: int,
    round_index: Annotated[int, arg(name="round")],
    settings: Annotated[MixConfig, arg(name="")],
    scoring: Annotated[LogprobsConfig, arg(name="")],
    earlier: tuple[Path, ...] = (),
    prompts: Path | None = None,
    chat: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Write a round's pairs, followed by pairs drawn from other sources and scored by the round's policy and reference.

    Args:
        model: Manifest of the base model.
        policy: The policy before this round: a policy.pt, or the base model's manifest.
        reference: The reference of this round, in the same form.
        pairs: The round's own pairs.
        output: Output path for all pairs.
        cost: Output path for the cost.
        seed: The run's seed.
        round_index: Round, from 1.
        earlier: pairs.jsonl of the earlier rounds, latest first.
        prompts: All training prompts, for pairs of the data set.
        chat: The run's chat format, a chat.json; the template's own variables and today's date if not given.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    meter = CostMeter("mix_pairs", parameter_count(model), default_device())
    own = sum(1 for _ in iterate_rows(pairs, ["prompt_id", "messages"]))
    chat_format, tokenizer = read_format(chat), load_tokenizer(model.parent, is_trusted(model))

    def encode(messages: list[dict], text: str) -> list[int]:
        return response_ids(tokenizer, messages, text, chat_format)

    added, warning = draw_additions(own, settings, earlier, prompts, seed, round_index, encode)
    for back, path in enumerate(earlier, start=1):
        replayed = [row for row in added if row["origin"] == REPLAY and row["round"] == round_index - back]
        check_vocabulary(model, replayed, ["token_ids_chosen", "token_ids_rejected"], path)
    if added:
        added = score_added(added, model, policy, reference, scoring, chat_format, meter)
    origins = Counter(row["origin"] for row in added)
    own_rows = (row | {"origin": OWN, "round": round_index} for row in iterate_rows(pairs, ["prompt_id"]))
    count = write_rows(output, (row for rows in (own_rows, added) for row in rows))
    meter.write(cost)
    result = ", ".join([f"{own} own", *(f"{number} {origin}" for origin, number in origins.items())])
    return Summary(f"{count} pairs", count, "pair", result, meter.seconds, warning)


def score_added(
    rows: list[dict],
    model: Path,
    policy: Path,
    reference: Path,
    scoring: LogprobsConfig,
    chat_format: ChatFormat,
    meter: CostMeter,
) -> list[dict]:
    """Add the log-probabilities of the round's policy and reference to the added rows."""
    dtype = resolve_dtype(scoring.dtype, meter.device)
    scorers, tokenizer = load_scorers(model, policy, reference, dtype, meter.device)
    encoded = [prompt_ids(tokenizer, row["messages"], chat_format) for row in rows]
    longest = [max(len(row["token_ids_chosen"]), len(row["token_ids_rejected"])) for row in rows]
    check_positions(model, max(len(ids) + length for ids, length in zip(encoded, longest, strict=True)))
    return score_pairs(rows, encoded, scorers, scoring.batch_size, meter)


run(main)
