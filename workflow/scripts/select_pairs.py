"""Form the round's preference pairs, and keep those that pass the filters and score highest by the metric."""

from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from _program import run
from prefloop.config.training_settings import SelectionConfig
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.core.progress import Summary
from prefloop.core.registry import lookup
from prefloop.core.seeds import rng_for
from prefloop.data.pairs import ChoosePair, choose, choose_pair_by, gap_filters
from prefloop.data.round_pairs import RoundPairs, read_pairs, scan_pairs, training_row
from prefloop.methods.beta_config import BetaConfig
from prefloop.methods.pair_metrics import keep_top, metric_scores, reads_variance, reward_gap
from prefloop.methods.pairings import PAIRINGS


def main(
    *,
    pfp: tuple[Path, ...],
    output: Path,
    seed: int,
    round_index: Annotated[int, arg(name="round")],
    settings: Annotated[SelectionConfig, arg(name="")],
    beta: float = BetaConfig.beta,
) -> Summary:
    """Form pairs from all steps of a round, and write the selected ones.

    Args:
        pfp: pfp.jsonl of every step.
        output: Output path for the pairs, best first.
        seed: The run's seed, for pairings, metric random and ties between scores.
        round_index: Round, from 1.
        beta: The first β of training, for metrics that use it.
    """
    metric = settings.first_metric if round_index == 1 and settings.first_metric else settings.metric
    pairs = scan_pairs(pfp, beta, pairing_of(settings, seed, round_index), reads_variance(metric))
    filters = gap_filters(reward_gap(pairs.columns), settings.min_gap, settings.min_gap_quantile)
    if settings.drop_truncated:
        filters["drop_truncated"] = ~pairs.columns["truncated"]
    passed = np.flatnonzero(np.all(list(filters.values()), axis=0))
    scores = np.zeros(0)
    if len(passed):
        scores = metric_scores(
            metric, "pairs.metric", choose(pairs.columns, passed), rng_for(seed, "pairs", round_index)
        )
    kept = keep_top(scores, settings.top_n, rng_for(seed, "pairs", round_index, "ties"))
    dropped = ", ".join(f"pairs.{name} dropped {np.count_nonzero(~keep)}" for name, keep in filters.items())
    dropped += f", top_n by {metric} dropped {len(passed) - len(kept)}"
    invalid = f", {pairs.invalid} without a valid judgment" if pairs.invalid else ""
    identical = f", {pairs.identical} between identical responses" if pairs.identical else ""
    ordered = f"by {settings.pairing}" if settings.pairing else "ordered"
    counts = f"{pairs.undecided - pairs.invalid} pairs tied{invalid}{identical}, {len(pairs)} {ordered}; {dropped}"
    if len(kept) == 0:
        raise InputError(f"no pair left to train on: {counts}; {advice(pairs, filters)}")
    rows = zip(map(training_row, read_pairs(pairs, passed[kept])), scores[kept], strict=True)
    write_rows(output, (row | {"metric": metric, "score": float(score)} for row, score in rows))
    return Summary(f"{len(kept)} of {len(pairs):,} pairs kept", len(pairs), "pair", counts)


def pairing_of(settings: SelectionConfig, seed: int, round_index: int) -> ChoosePair | None:
    """The pairing in the settings, with random numbers per prompt; None if any two responses form a pair."""
    if settings.pairing is None:
        return None
    pairing = lookup(PAIRINGS, settings.pairing, "pairs.pairing")
    return choose_pair_by(pairing, lambda prompt_id: rng_for(seed, "pairing", round_index, prompt_id))


def advice(pairs: RoundPairs, filters: dict[str, np.ndarray]) -> str:
    """How to get pairs if none is left, depending on the reason."""
    if pairs.invalid > max(len(pairs), pairs.undecided - pairs.invalid):
        return (
            "the judge gives no usable answer: the log of stage reward shows the first one, table judge_answers all; "
            "see judge.max_tokens, judge.request, judge.template"
        )
    if not len(pairs) and pairs.identical:
        return "only identical responses have different rewards: raise generation.temperature"
    if not len(pairs):
        return "the feedback ties all responses: raise generation.temperature or n, or change feedback"
    if "drop_truncated" in filters and not filters["drop_truncated"].any():
        return "every pair has a truncated response: raise generation.max_new_tokens, or unset pairs.drop_truncated"
    return "lower pairs.min_gap (in the reward's own units) or pairs.min_gap_quantile"


run(main)
