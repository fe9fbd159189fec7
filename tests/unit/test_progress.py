"""What stages tell of themselves: lines in a log now and then, a bar in a terminal, and one line at the end."""

import ast
import io
import sys

import pytest

from conftest import ROOT
from prefloop import progress
from prefloop.progress import (
    Progress,
    Summary,
    bar_in_log,
    duration,
    rate,
    roughly,
    seconds_in,
    seconds_left,
    seconds_taken,
)

PROGRAMS = sorted(
    path for path in (ROOT / "workflow/scripts").glob("*.py") if path.name not in ("_program.py", "status.py")
)


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which stands still until the test sets it, and a log file for stderr."""
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
def test_times_are_told_exactly_and_roughly(seconds, exact, rough):
    assert duration(seconds) == exact
    assert roughly(seconds) == rough
    assert seconds_in(exact) == pytest.approx(seconds, abs=30 if seconds > 3599 else 0.6)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "0.027 pairs/s"), (37, "1 pairs/s"), (123, "3.3 pairs/s"), (380_000, "10,270 pairs/s")]
)
def test_rates_have_two_figures_or_all_before_the_point(count, expected):
    assert rate(count, 37.0, "pair") == expected


def test_a_summary_says_what_how_fast_how_long_and_what_came_out():
    said = Summary("round 2, 32 pairs, 8 steps", 32, "pair", "loss 0.6931 -> 0.4120", 9.8)
    assert said.line("train", 12.0) == (
        "train: round 2, 32 pairs, 8 steps in 9.8 s (3.3 pairs/s), loss 0.6931 -> 0.4120"
    )
    tokens = Summary("16 prompts, 64 responses by policy, 2,314 tokens", 2314, "token")
    assert tokens.line("generate", 6.1) == (
        "generate: 16 prompts, 64 responses by policy, 2,314 tokens in 6.1 s (379 tokens/s)"
    )
    assert Summary("8 clusters -> arms.pdf").line("figure_arms", 1.26) == "figure_arms: 8 clusters -> arms.pdf in 1.3 s"


def test_what_lines_say_of_time_is_read_again():
    assert seconds_taken("train: 32 pairs in 9.8 s (3.3 pairs/s), loss 0.7 -> 0.4") == 9.8
    assert seconds_taken("fetch_model: a -> b in bfloat16 in 4 min 12 s") == 252
    assert seconds_taken("cluster: 5 prompts, 2 clusters in 2 h 5 min, inertia 3") == 7500
    assert seconds_taken("generate: 128/512 responses, 41 s, 380 tokens/s, about 2 min left") is None
    assert seconds_taken("error: no prompt is left in 3 files") is None
    assert seconds_left("generate: 128/512 responses, 41 s, 380 tokens/s, about 2 min left") == 120
    assert seconds_left("train: 1/9 pairs, 41 s, 380 tokens/s, about 2.5 h left") == 9000
    assert seconds_left("prompts: 12,000 rows, 41 s, 290 rows/s") is None


def test_a_log_gets_a_line_every_thirty_seconds_and_no_more(clock, capsys):
    with Progress("generate", 512, "response") as shown:
        for now, count, tokens in [(1020.0, 64, 7000), (1041.0, 64, 8580), (1060.0, 64, 9000), (1071.0, 64, 4000)]:
            clock[0] = now
            shown.update(count, tokens)
        clock[0] = 1200.0
        shown.update(256, 100)
    assert capsys.readouterr().out.splitlines() == [
        "generate: 128/512 responses, 41 s, 380 tokens/s, about 2 min left",  # 15,580 tokens; 41 s for a quarter
        "generate: 256/512 responses, 71 s, 403 tokens/s, about 71 s left",
    ], "the end says nothing: what the stage ends with says it"


def test_what_an_earlier_process_did_counts_for_how_far_and_not_for_how_fast(clock, capsys):
    with Progress("train", 40, "pair", done=20) as shown:
        clock[0] = 1040.0
        shown.update(4)
    assert capsys.readouterr().out == "train: 24/40 pairs, 40 s, 0.1 pairs/s, about 3 min left\n"


def test_nobody_knows_how_many_rows_a_source_has(clock, capsys):
    with Progress("prompts", None, "row") as shown:
        clock[0] = 1040.0
        shown.update(12_000)
    assert capsys.readouterr().out == "prompts: 12,000 rows, 40 s, 300 rows/s\n"


def test_other_processes_than_the_main_one_are_silent(clock, capsys, monkeypatch):
    for stderr in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stderr)
        with Progress("train", 40, "pair", silent=True) as shown:
            clock[0] += 100.0
            shown.update(4)
        assert stderr.getvalue() == "" == capsys.readouterr().out


def test_a_terminal_gets_a_bar_with_the_rate_and_no_lines(clock, capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("generate", 512, "response") as shown:
        clock[0] = 1040.0
        shown.update(128, 8000)
    bar = terminal.getvalue()
    assert "generate" in bar and "128/512" in bar and "200 tokens/s" in bar
    assert capsys.readouterr().out == ""


def test_a_bar_that_a_library_makes_itself_writes_lines_to_a_log(clock, capsys):
    """As vLLM uses what it is given: around what it reads, then with a total, elapsed time and a postfix."""
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
    """Of `main`, and not of what is defined within it: each way out returns a Summary, or None in a second process."""
    (main,) = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == "main"]
    assert ast.unparse(main.returns) in ("Summary", "Summary | None")
    inner = {id(node) for part in ast.walk(main) if isinstance(part, ast.FunctionDef) and part is not main
             for node in ast.walk(part)}  # fmt: skip
    ways = [node.value for node in ast.walk(main) if isinstance(node, ast.Return) and id(node) not in inner]
    calls = [way for way in ways if isinstance(way, ast.Call) and way.func.id == "Summary"]
    others = [way for way in ways if way not in calls]
    assert isinstance(main.body[-1], ast.Return) and main.body[-1].value in calls
    assert all(isinstance(way, ast.Constant) and way.value is None for way in others)
    assert bool(others) == ast.unparse(main.returns).endswith("None")
