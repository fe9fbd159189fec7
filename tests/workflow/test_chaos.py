"""tools/chaos.py kills stages at renames, and a short run with all disturbances gives the same files.

test_disturbances.py covers full disks and changed clocks.
"""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from conftest import ROOT

PROGRAM = """
import sys
from pathlib import Path
from prefloop.core.files import write_json
write_json(Path(sys.argv[1]), {"a": 1})
"""

FORKS = """
import os
import sys
from pathlib import Path
for number in range(40):
    source = Path(sys.argv[1], str(number))
    source.touch()
    if not os.fork():
        os.rename(source, source.with_suffix(".moved"))
    os.wait()
"""


def test_stage_is_killed_before_or_after_a_rename(tmp_path):
    """If killed before it, a temporary file is left that the next start deletes. After it the output is complete."""
    program, output, log = tmp_path / "workflow/scripts/write.py", tmp_path / "out/output.json", tmp_path / "log"
    program.parent.mkdir(parents=True)
    program.write_text(PROGRAM)
    paths = f"{ROOT / 'tools/chaos_hooks'}:{ROOT / 'workflow/scripts'}"
    environment = os.environ | {"PYTHONPATH": paths, "CHAOS_LOG": str(log)}

    def write(rate: str) -> int:
        command = [sys.executable, program, output]
        return subprocess.run(command, env=environment | {"CHAOS_RENAMES": rate}, check=False).returncode

    moments = set()
    while moments != {"before", "after"}:
        output.unlink(missing_ok=True)
        assert write("1") == -signal.SIGKILL
        moment, target = log.read_text().splitlines()[-1].split()
        assert target == str(output)
        moments.add(moment)
        left = {path.name for path in output.parent.iterdir()}
        if moment == "before":
            assert [bool(re.fullmatch(r"\.output\.json\.\d+\.partial", name)) for name in left] == [True]
        else:
            assert left == {"output.json"}
            assert json.loads(output.read_text()) == {"a": 1}
    (output.parent / ".output.json.1.partial").touch()
    assert write("0") == 0
    assert [path.name for path in output.parent.iterdir()] == ["output.json"]


def test_forks_of_the_warm_process_are_killed_independently(tmp_path):
    """The warm process imports the hook once, and its programs are forks."""
    program, log = tmp_path / "workflow/scripts/fork.py", tmp_path / "log"
    program.parent.mkdir(parents=True)
    program.write_text(FORKS)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tools/chaos_hooks"), "CHAOS_LOG": str(log)}
    command = [sys.executable, program, tmp_path]
    subprocess.run(command, env=environment | {"CHAOS_RENAMES": "1"}, check=True)
    assert {line.split()[0] for line in log.read_text().splitlines()} == {"before", "after"}


@pytest.mark.slow
def test_disturbed_run_gives_the_same_files():
    """The smallest experiment has one disturbance of each kind."""
    command = [sys.executable, ROOT / "tools/chaos.py", "--small", "--disturbances", "1", "--pause", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\n\d+ files, 0 differ, 0 temporary", done.stdout)
    signals = r"(SIGKILL|SIGTERM) (?!before|after)"
    for kind in ("before a rename|after a rename", "time in the past", "clock set back", signals):
        assert re.search(kind, done.stdout), done.stdout
