"""Several steps in one call: their command lines, shared objects and summary."""

import pytest

from prefloop.core.errors import InputError
from prefloop.core.joined_steps import keep, keeping, run_steps, split_steps
from prefloop.core.progress import Summary


def test_single_step_is_unchanged():
    words = ["--prompts", "a", "--seed", "0", "--output", "b", "--stop", "x", "y"]
    assert split_steps(words) == [words]
    assert split_steps(["--help"]) == [["--help"]]


def test_each_step_has_its_files_and_all_shared_flags():
    words = ["--prompts", "p1", "p2", "--n", "2", "--stop", "x", "y", "--output", "o1", "o2", "--cost", "c1", "c2"]
    shared = ["--n", "2", "--stop", "x", "y"]
    assert split_steps(words) == [
        [*shared, "--prompts", "p1", "--output", "o1", "--cost", "c1"],
        [*shared, "--prompts", "p2", "--output", "o2", "--cost", "c2"],
    ]


def test_different_numbers_of_files_raise():
    with pytest.raises(InputError, match="2 values of --prompts, 1 values of --output; expected one value per step"):
        split_steps(["--prompts", "p1", "p2", "--output", "o1"])


def test_steps_load_once():
    loads = []

    def load(name: str, unequal: object = None) -> list[str]:
        loads.append(name)
        return [name]

    with keeping():
        first = keep(load, "a", unequal=object())
        assert keep(load, "a", unequal=object()) is first
        assert keep(load, "b") == ["b"]
    assert loads == ["a", "b"]
    keep(load, "a")
    keep(load, "a")
    assert loads == ["a", "b", "a", "a"]  # nothing is kept outside `keeping`


def test_summary_is_the_sum_of_all_steps(capsys):
    summaries = iter([Summary("one", 3, "response", "x", 1.0), Summary("two", 4, "response", "y", 2.0, "too short")])
    joined = run_steps("reward", [["1"], ["2"]], lambda words: next(summaries))
    assert joined == Summary("2 steps", 7, "response", seconds=3.0, warning="too short")
    assert capsys.readouterr().out.splitlines() == [
        "reward: one in 1.0 s (3 responses/s), x",
        "reward: two in 2.0 s (2 responses/s), y",
    ]
