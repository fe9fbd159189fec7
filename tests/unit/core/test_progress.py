"""Progress of stages: lines in a log, a bar in a terminal, and a summary line."""

import ast
import copy
import io
import json
import pickle
import re
import sys

import pytest

from conftest import ROOT
from prefloop.core import progress
from prefloop.core.progress import (
    Progress,
    Summary,
    WatchedList,
    bar_in_log,
    duration,
    rate,
    roughly,
)

PROGRAMS = sorted(path for path in (ROOT / "workflow/scripts").glob("[!_]*.py") if path.name != "show_status.py")


@pytest.fixture
def clock(monkeypatch):
    """A clock in seconds that the test sets; stderr is not a terminal."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    return now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0.04, "0.0 s", "0 s"),
        (6.12, "6.1 s", "6 s"),
        (9.96, "10 s", "10 s"),
        (99.4, "99 s", "99 s"),
        (252, "4 min 12 s", "4 min"),
        (3599.6, "1 h 0 min", "60 min"),
        (7500, "2 h 5 min", "2.1 h"),
        (180_000, "50 h 0 min", "50 h"),
    ],
)
def test_durations_are_exact_or_rough(seconds, exact, rough):
    assert duration(seconds) == exact
    assert roughly(seconds) == rough


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "0.027 pairs/s"), (37, "1 pairs/s"), (123, "3.3 pairs/s"), (380_000, "10,270 pairs/s")]
)
def test_rates_have_two_digits_or_all_integer_digits(count, expected):
    assert rate(count, 37.0, "pair") == expected


def test_summary_line():
    summary = Summary("round 2, 32 pairs, 8 steps", 32, "pair", "loss 0.6931 -> 0.4120", 9.8)
    assert summary.line("train", 12.0) == (
        "train: round 2, 32 pairs, 8 steps in 9.8 s (3.3 pairs/s), loss 0.6931 -> 0.4120"
    )
    tokens = Summary("16 prompts, 64 responses by policy, 2,314 tokens", 2314, "token")
    assert tokens.line("generate", 6.1) == (
        "generate: 16 prompts, 64 responses by policy, 2,314 tokens in 6.1 s (379 tokens/s)"
    )
    assert Summary("8 clusters -> arms.pdf").line("figure_arms", 1.26) == "figure_arms: 8 clusters -> arms.pdf in 1.3 s"


def test_log_gets_a_line_every_30_seconds(clock, capsys):
    with Progress("generate", 512, "response") as shown:
        for now, count, tokens in [(1020.0, 64, 7000), (1041.0, 64, 8580), (1060.0, 64, 9000), (1071.0, 64, 4000)]:
            clock[0] = now
            shown.update(count, tokens)
        clock[0] = 1200.0
        shown.update(256, 100)
    assert capsys.readouterr().out.splitlines() == [
        "generate: 128/512 responses, 41 s, 380 tokens/s, about 2 min left",  # 15,580 tokens; a quarter took 41 s
        "generate: 256/512 responses, 71 s, 403 tokens/s, about 71 s left",
    ], "the last update prints nothing, because the summary line follows"


def test_earlier_work_counts_as_done_but_not_for_the_rate(clock, capsys):
    with Progress("train", 40, "pair", done=20) as shown:
        clock[0] = 1040.0
        shown.update(4)
    assert capsys.readouterr().out == "train: 24/40 pairs, 40 s, 0.1 pairs/s, about 3 min left\n"


def test_unknown_total_gives_no_estimate(clock, capsys):
    with Progress("prompts", None, "row") as shown:
        clock[0] = 1040.0
        shown.update(12_000)
    assert capsys.readouterr().out == "prompts: 12,000 rows, 40 s, 300 rows/s\n"


def test_silent_shows_nothing(clock, capsys, monkeypatch):
    for stderr in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stderr)
        with Progress("train", 40, "pair", silent=True) as shown:
            clock[0] += 100.0
            shown.update(4)
        assert stderr.getvalue() == "" == capsys.readouterr().out


def test_terminal_gets_a_bar(clock, capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("generate", 512, "response") as shown:
        clock[0] = 1040.0
        shown.update(128, 8000)
    bar = terminal.getvalue()
    assert "generate" in bar and "128/512" in bar and "200 tokens/s" in bar
    assert capsys.readouterr().out == ""


def test_bar_of_a_library_writes_lines(clock, capsys):
    """vLLM uses the bar around an iterable, then with a total, elapsed time and a postfix."""
    made = bar_in_log("generate", "response")
    assert list(made(["a", "b"], desc="Adding requests")) == ["a", "b"]
    bar = made(total=8, desc="Processed prompts", dynamic_ncols=True, postfix="est. speed")
    for now in (1010.0, 1031.0):
        clock[0] = now
        assert bar.format_dict["elapsed"] > 0
        bar.postfix = "est. speed output"
        bar.update(2)
    bar.refresh()
    bar.close()
    assert bar.n == 4 and sys.stderr.getvalue() == ""
    assert capsys.readouterr().out == "generate: 4/8 responses, 31 s, 0.13 responses/s, about 31 s left\n"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_program_returns_its_summary(path):
    """Each return statement of `main` returns a Summary; processes other than the first may return None."""
    (main,) = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == "main"]
    assert ast.unparse(main.returns) in ("Summary", "Summary | None")
    inner = {id(node) for part in ast.walk(main) if isinstance(part, ast.FunctionDef) and part is not main
             for node in ast.walk(part)}  # fmt: skip
    values = [node.value for node in ast.walk(main) if isinstance(node, ast.Return) and id(node) not in inner]
    calls = [
        value
        for value in values
        if isinstance(value, ast.Call) and re.search(r"(\b|_)[Ss]ummary$", ast.unparse(value.func))
    ]
    others = [value for value in values if value not in calls]
    assert isinstance(main.body[-1], ast.Return) and main.body[-1].value in calls
    assert all(isinstance(value, ast.Constant) and value.value is None for value in others)
    assert bool(others) == ast.unparse(main.returns).endswith("None")


def written(monkeypatch) -> list[dict]:
    """Return a list that collects all statuses written from now on."""
    statuses: list[dict] = []
    monkeypatch.setattr(
        progress, "write_status", lambda stage, state, **amounts: statuses.append({"stage": stage} | amounts)
    )
    return statuses


def test_inner_loop_over_the_same_units_writes_the_status(clock, monkeypatch):
    """The outer loop has one batch with all units, so it makes no progress until its end."""
    statuses = written(monkeypatch)
    with Progress("reward", 4, "response") as outer:
        with Progress("my_function", 4, "response") as inner:
            clock[0] = 1006.0
            inner.update(3)
        clock[0] = 1020.0
        outer.update(4)
    assert [(s["stage"], s["done"], s["seconds_left"]) for s in statuses] == [
        ("reward", 0, None),
        ("my_function", 0, None),
        ("my_function", 3, 2.0),
        ("reward", 4, 0.0),
    ]


def test_inner_loop_over_one_of_several_batches_writes_no_status(clock, monkeypatch):
    statuses = written(monkeypatch)
    with Progress("reward", 8, "response"), Progress("reward model", 4, "response") as inner:
        clock[0] = 1006.0
        inner.update(4)
    assert [status["stage"] for status in statuses] == ["reward"]


def test_loops_over_a_watched_list_count_as_progress(clock, capsys):
    """A fast first loop such as max(map(len, responses)) does not count."""
    with Progress("slow", 4, "response") as shown:
        responses = WatchedList(["a", "bb", "ccc", "dddd"])
        responses.progress = shown
        assert max(map(len, responses)) == 4
        assert (shown.done, capsys.readouterr().out) == (0, "")
        clock[0] = 1100.0
        for _, _response in zip("1234", responses, strict=True):
            clock[0] += 20.0
    assert capsys.readouterr().out.splitlines() == [
        "slow: 1/4 responses, 20 s, 0.05 responses/s, about 60 s left",
        "slow: 3/4 responses, 60 s, 0.05 responses/s, about 20 s left",
    ]


def test_copies_of_a_watched_list_are_plain_lists(clock):
    responses = WatchedList(["a"])
    responses.progress = Progress("slow", 1, "response")
    for copied in (pickle.loads(pickle.dumps(responses)), copy.deepcopy(responses)):
        assert type(copied) is list and copied == ["a"]
    assert json.dumps(responses) == '["a"]'
