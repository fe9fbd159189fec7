"""Choose which responses of a step get a label, from the labels of earlier steps."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.core.jsonl import write_rows
from prefloop.core.progress import Summary
from prefloop.data.acquired import LabelChoice, StepFiles, choose_responses, read_candidate_features, read_history
from prefloop.methods.acquisition import AcquisitionConfig


def main(
    *,
    logprobs: Path,
    features: Path,
    output: Path,
    seed: int,
    round_index: Annotated[int, arg(name="round")],
    step: int,
    settings: Annotated[AcquisitionConfig, arg(name="")],
    prompts: int | None = None,
    logprobs_before: tuple[Path, ...] = (),
    features_before: tuple[Path, ...] = (),
    rewards_before: tuple[Path, ...] = (),
) -> Summary:
    """Write the responses that the feedback scores or compares, one row each.

    Args:
        logprobs: logprobs.jsonl of the step, for the order of its responses.
        features: Features of the responses.
        output: Output path for the rows.
        seed: The run's seed.
        round_index: Round, from 1.
        step: Step of the round, from 1.
        settings: How responses are chosen.
        prompts: Number of prompts that get labels; all if not given.
        logprobs_before: logprobs.jsonl of every earlier step of the run.
        features_before: Features of these steps.
        rewards_before: Rewards of these steps.
    """
    history = read_history(list(map(StepFiles, logprobs_before, features_before, rewards_before)))
    candidates = read_candidate_features(logprobs, features)
    choice = LabelChoice(settings.rule, settings.labels, settings.confidence, seed, (round_index, step), prompts)
    rows, has_head = choose_responses(candidates, history, choice)
    write_rows(output, rows)
    how = f"by {settings.rule}, from {len(history.targets)} labels" if history and has_head else "at random"
    return Summary(f"{len(rows)} of {len(candidates.rows)} responses {how}", len(rows), "response")


run(main)
