"""Printed text contains no control characters, even if a server, a row, a name or a library provides some."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tqdm

from conftest import ROOT
from prefloop.core.errors import printable
from prefloop.core.files import write_json
from prefloop.core.terminal import PrintableStream

ESCAPES = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202e\u2066 \x08\x7f\x00 \u2028 a\rb"
SHOWN = r"\x1b[2J\x1b]0;title\x07 \x9b31m \u202e\u2066 \x08\x7f\x00 \u2028 a\rb"
PROGRAM = """
import sys, warnings
sys.path.insert(0, sys.argv.pop(1))
from _program import run
from prefloop.core.errors import InputError
from prefloop.core.progress import Summary

TEXT = {text!r}

def main(*, error: bool = False, traceback: bool = False) -> Summary:
    print("printed", TEXT)
    sys.stderr.writelines(["written ", TEXT, chr(10)])
    warnings.warn("warned " + TEXT)
    if error:
        raise InputError("wrong: " + TEXT)
    if traceback:
        raise KeyError("odd " + TEXT) from KeyError(TEXT)
    return Summary("done " + TEXT, warning="doubtful " + TEXT)

run(main)
"""


def test_control_characters_are_escaped():
    """Covers C0, C1, bidirectional overrides and other line separators. Text in any script is unchanged."""
    assert printable(ESCAPES) == SHOWN
    assert printable("é 漢字 العربية 🙂\n\tx") == "é 漢字 العربية 🙂\n\tx"
    assert printable("\ud800") == r"\ud800"


@pytest.mark.parametrize(
    ("flags", "word"), [([], "doubtful "), (["--error", "True"], "wrong: "), (["--traceback", "True"], "odd ")]
)
def test_programs_print_no_control_characters(tmp_path, flags, word):
    """Covers prints, warnings, messages, summaries and tracebacks of a program."""
    (tmp_path / "odd.py").write_text(PROGRAM.format(text=ESCAPES))
    command = [sys.executable, str(tmp_path / "odd.py"), str(ROOT / "workflow/scripts"), *flags]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONUTF8": "1"})
    assert (done.returncode != 0) == bool(flags)
    text = (done.stdout + done.stderr).decode()
    assert text.replace("\n", "").replace("\t", "").isprintable()
    for start in ("printed ", "written ", "warned ", word):
        assert start + SHOWN in text.replace("\\\\", "\\"), start  # KeyError shows an escaped repr


def test_progress_bars_keep_their_cursor_movements():
    """A bar returns to the start of its line, and an inner bar moves up to the line of the outer one."""
    plain, shown = io.StringIO(), io.StringIO()
    for stream in (plain, PrintableStream(shown)):
        for _ in tqdm.tqdm(range(2), file=stream, ascii=True, desc="outer", bar_format="{desc}{n}", mininterval=0):
            for _ in tqdm.tqdm(range(2), file=stream, ascii=True, desc="inner", bar_format="{desc}{n}", mininterval=0):
                pass
    assert "\x1b[A" in plain.getvalue()
    assert shown.getvalue() == plain.getvalue()


def test_status_shows_no_control_characters(tmp_path):
    """`make status` quotes the last line of a log, which may contain any text."""
    logs = tmp_path / "results/logs/tiny"
    logs.mkdir(parents=True)
    log = "results/logs/tiny/s.log"
    job = {"stage": "s", "output": "results/tiny/o", "temporary": False, "log": log, "to_do": True}
    shape = {"methods": ["a\x1b[2J"], "seeds": [0], "rounds": 1, "steps": 1, "judgments": "j"}
    write_json(logs / "plan.json", {"root": "results/tiny", "jobs": [job]} | shape)
    (logs / "s.log").write_text("the end \x1b[2J \x9b31m \u202e\n")
    program = Path(ROOT, "workflow/scripts/show_status.py")
    for flags in ([], ["--json"]):
        done = subprocess.run([sys.executable, program, *flags], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0
        assert "the end " + (r"\u001b[2J \u009b31m \u202e" if flags else r"\x1b[2J \x9b31m \u202e") in done.stdout
        assert done.stdout.replace("\n", "").isprintable()
