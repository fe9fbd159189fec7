"""Runs several steps of a round in one call of a program, which loads its models only once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from prefloop.core.errors import InputError
from prefloop.core.progress import Progress, Summary

T = TypeVar("T")
STEP_FLAGS = ("--prompts", "--generations", "--output", "--cost", "--stream")  # with one value per step
KEPT: list[dict[str, Any]] = []  # the cache of `keep` while a call runs several steps, else empty


def split_steps(words: Sequence[str]) -> list[list[str]]:
    """Return the command line of each step. Flags in STEP_FLAGS have one value per step; others apply to all steps.

    Raises:
        InputError: Two flags of STEP_FLAGS have different numbers of values.
    """
    values: dict[str, list[str]] = {}
    shared, flag = [], ""
    for word in words:
        flag = word if word.startswith("--") else flag
        if flag not in STEP_FLAGS:
            shared.append(word)
        elif word is not flag:
            values[flag].append(word)
        else:
            values[flag] = []
    counts = {name: len(items) for name, items in values.items()}
    if max(counts.values(), default=1) < 2:
        return [list(words)]
    if len(set(counts.values())) > 1:
        given = ", ".join(f"{count} values of {name}" for name, count in counts.items())
        raise InputError(f"{given}; expected one value per step")
    steps = zip(*values.values(), strict=True)
    return [[*shared, *(word for pair in zip(values, step, strict=True) for word in pair)] for step in steps]


def run_steps(program: str, steps: Sequence[list[str]], run_step: Callable[[list[str]], Summary]) -> Summary:
    """Run the steps of a program and print their summaries. The steps share what `keep` loads.

    Args:
        program: Name of the program.
        steps: Command line of each step.
        run_step: Runs one step.

    Returns:
        The summary of all steps, with the first warning of any step.
    """
    summaries = []
    with keeping(), Progress(program, len(steps), "step") as progress:
        for words in steps:
            summaries.append(run_step(words))
            print(summaries[-1].line(program, 0.0), flush=True)
            progress.update()
    seconds = sum(summary.seconds or 0.0 for summary in summaries)
    warning = next((summary.warning for summary in summaries if summary.warning), "")
    count = sum(summary.count for summary in summaries)
    return Summary(f"{len(steps)} steps", count, summaries[0].unit, seconds=seconds, warning=warning)


@contextmanager
def keeping() -> Iterator[None]:
    """Within the context, `keep` loads everything only once."""
    KEPT.append({})
    try:
        yield
    finally:
        KEPT.pop()


def keep(load: Callable[..., T], *arguments: Any, **others: Any) -> T:
    """Return `load(*arguments, **others)`, or the cached result of an earlier step of the same call.

    Positional arguments are compared by their repr. Keyword arguments are not compared.
    """
    if not KEPT:
        return load(*arguments, **others)
    key = repr((load, arguments))
    if key not in KEPT[-1]:
        KEPT[-1][key] = load(*arguments, **others)
    return KEPT[-1][key]
