"""A program forked from the warm process behaves like a new process, and ends with its client.

If forking fails, a new process is started.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT
from prefloop.core import warm_server
from prefloop.core.inherited_attributes import attributes_key
from prefloop.core.warm_start import WarmStartError, socket_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a warm process")

SCRIPTS = ROOT / "workflow/scripts"
PROBE = """
import gc, json, locale, os, resource, signal, subprocess, sys, threading
import numpy, random, torch
files = sorted(os.listdir("/proc/self/fd"))
streams = [
    [s.fileno(), s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through]
    for s in (sys.stdin, sys.stdout, sys.stderr)
]
main = sys.modules["__main__"]
attributes = ("Umask", "SigI", "SigB", "SigC", "Cap", "Cpus_a")
signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
state = {
    "sys": [sys.argv, sys.orig_argv, sys.executable, sys.path, list(sys.flags)],
    "cwd": os.getcwd(),
    "environment": [dict(os.environ), subprocess.check_output(["env", "-0"]).hex()],
    "files": files,
    "streams": streams,
    "attributes": [line for line in open("/proc/self/status") if line.startswith(attributes)],
    "limits": [resource.getrlimit(number) for number in range(16)],
    "priority": [os.nice(0), sorted(os.sched_getaffinity(0))],
    "main": [main.__name__, main.__file__, main.__doc__, str(main.__spec__), type(main.__loader__).__name__, __file__],
    "handlers": [str(signal.getsignal(number)) for number in signals],
    "locale": [locale.getlocale(), locale.getpreferredencoding()],
    "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()],
    "gc": gc.isenabled(),
    "product": float((torch.ones(300, 300) @ torch.ones(300, 300)).sum()),
    "stdin": sys.stdin.read(),
}
random = [torch.rand(1).item(), numpy.random.rand(), random.random(), os.urandom(4).hex()]
print(json.dumps([state, random]))
"""
# The handler writes unbuffered, because the signal may arrive during a `print`, which locks the buffer.
WAITER = """
import os, signal, sys, time
def end(number, frame):
    os.write(1, b"handled %d\\n" % number)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, end)
print(os.getpid(), os.getppid(), flush=True)
time.sleep(float(sys.argv[1]))
print("slept", flush=True)
"""
# A warm process that imports only `package`, and records that it has started.
LIGHT = f"""
import sys
from pathlib import Path
sys.path.append({str(SCRIPTS)!r})
here = Path(__file__).parent
sys.path.append(str(here / "packages"))
from prefloop.core.forked_program import serve_programs
def import_packages():
    with (here / "starts").open("a") as file:
        file.write("start\\n")
    import package
sys.argv[3] = "1.5"
serve_programs(import_packages, here)
"""
CLIENT = f"""
import sys
from pathlib import Path
sys.path.append({str(SCRIPTS)!r})
from prefloop.core.warm_start import start
start(Path(__file__).with_name("light.py"), sys.argv[1:])
"""


@pytest.fixture
def light(tmp_path, sockets) -> Callable[..., subprocess.Popen]:
    """light("code", *words) starts a program from the test's own warm process, or directly with direct=True."""
    for name, text in {"light.py": LIGHT, "client.py": CLIENT}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/package.py").write_text("VALUE = 1\n")

    def start(code: str, *words: str, direct: bool = False) -> subprocess.Popen:
        (tmp_path / "program.py").write_text(code)
        command = [sys.executable, *["client.py"] * (not direct), "program.py", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, **pipes)

    return start


def output(process: subprocess.Popen) -> tuple[int, str]:
    text, _ = process.communicate(timeout=300)
    return process.returncode, text


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("condition not true within a minute")


def test_program_has_the_state_of_a_new_process(tmp_path, sockets, monkeypatch):
    """Compares flags, folder, environment, streams, umask, limits, signals, threads and random numbers."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("OF_THE_JOB", "ä\udcff and\nmore")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder/probe.py").write_text(PROBE)
    start = str(SCRIPTS / "_start.py")
    seen, random = [], []
    for words in ([], [start], [start]):
        command = [sys.executable, *words, "probe.py", "--flag", "größe", "", "a b"]
        before = os.umask(0o027)
        try:
            done = subprocess.run(command, cwd=tmp_path / "a folder", input="text", capture_output=True, text=True)
        finally:
            os.umask(before)
        assert (done.returncode, done.stderr) == (0, "")
        state, numbers = json.loads(done.stdout)
        seen.append(state)
        random.append(numbers)
    assert seen[1] == seen[2] == seen[0]
    assert all(len(set(numbers)) == 3 for numbers in zip(*random, strict=True))
    assert any(sockets.glob("prefloop-*/*.socket"))


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nprint('a', end='')\nprint('b', file=sys.stderr)\nsys.exit(7)",
        "import sys\nsys.exit('error: one line')",
        "def f():\n    raise ValueError('no')\n\ntry:\n    f()\nexcept ValueError:\n    raise KeyError('later')",
        "raise KeyboardInterrupt",
        "print('before'\n",
        "import os\nos.abort()",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import sys\nsys.exit(True)",
        "import sys\nsys.exit(258)",
        "import atexit\natexit.register(print, 'at the end')\nopen('file', 'w').write('text')",
        "class Kept:\n    def __del__(self):\n        print('destroyed')\n\nKEPT = Kept()",
        "import threading, time\nthreading.Thread(target=lambda: [time.sleep(0.2), print('late')]).start()",
        "import ctypes\nctypes.CDLL(None).printf(b'by C\\n')",
        "import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nprint('lost')",
        "import sys\nsys.stdout.close()",
        "import pickle\nclass A:\n    pass\nprint(pickle.loads(pickle.dumps(A())).__class__)",
    ],
)
def test_program_ends_like_a_new_process(light, code):
    """Compares the exit status or signal and the output, including tracebacks."""
    assert output(light(code)) == output(light(code, direct=True))


def test_objects_of_packages_are_not_destroyed_at_the_end(light, tmp_path):
    """A fork would first have to copy their memory. A destroyed object would print an empty line."""
    (tmp_path / "packages/package.py").write_text("KEPT = type('Kept', (), {'__del__': print})()\n")
    assert output(light("import package\nprint('done')")) == (0, "done\n")


def test_open_file_of_a_program_is_written_at_the_end(light, tmp_path):
    assert output(light("FILE = open('file', 'w')\nFILE.write('text')\nprint('done')")) == (0, "done\n")
    assert (tmp_path / "file").read_text() == "text"


def test_sigterm_reaches_the_programs_handler(light):
    process = light(WAITER, "60")
    process.stdout.readline()
    process.terminate()
    assert output(process) == (128 + signal.SIGTERM, f"handled {int(signal.SIGTERM)}\n")


def test_killing_the_client_kills_its_program(light):
    process = light(WAITER, "600")
    program, server = map(int, process.stdout.readline().split())
    assert program != process.pid
    process.kill()
    wait_until(lambda: not is_alive(program))
    assert is_alive(server)


def test_program_restarts_if_the_warm_process_is_killed(light):
    process = light(WAITER, "1")
    program, server = map(int, process.stdout.readline().split())
    os.kill(server, signal.SIGKILL)
    code, text = output(process)
    assert code == 0
    assert text.startswith("debug: program.py starts in a new process: the warm process has ended\n")
    assert text.endswith("slept\n") and text.count("slept") == 1
    assert not is_alive(program)


def test_failing_import_starts_new_processes(light, tmp_path):
    (tmp_path / "packages/package.py").write_text("raise ValueError\n")
    code, text = output(light("print('done')"))
    assert (code, text) == (0, "debug: program.py starts in a new process: the warm process has ended\ndone\n")


def test_failing_fork_starts_a_new_process(light, tmp_path):
    broken = "from prefloop.core import forked_program\nforked_program.replace_state = lambda request: 1 / 0\n"
    (tmp_path / "packages/package.py").write_text(broken)
    code, text = output(light("import sys; print(sys.argv[1:])", "word"))
    assert (code, text) == (0, "debug: program.py starts in a new process: division by zero\n['word']\n")


def test_warm_process_ends_when_idle(light, sockets):
    code, text = output(light("import os; print(os.getppid())"))
    assert code == 0 and is_alive(int(text))
    wait_until(lambda: not is_alive(int(text)))
    assert not list(sockets.glob("prefloop-*/*.socket"))


def test_programs_share_one_warm_process(light, tmp_path):
    running = [light("import os, time; time.sleep(1); print(os.getppid())") for _ in range(4)]
    outputs = [output(process) for process in running]
    assert {code for code, _ in outputs} == {0}
    assert len({text for _, text in outputs}) == 1
    assert (tmp_path / "starts").read_text() == "start\n"


def test_changed_package_is_imported_again(light, tmp_path):
    code = "import package; print(package.VALUE)"
    assert output(light(code)) == (0, "1\n")
    (tmp_path / "packages/package.py").write_text("VALUE = 'changed'\n")
    assert output(light(code)) == (0, "changed\n")


def test_import_warnings_reach_the_log(light, tmp_path):
    (tmp_path / "packages/package.py").write_text("import sys\nprint('careful', file=sys.stderr)\n")
    assert output(light("print('done')")) == (0, "careful\ndone\n")


def test_saved_reference_to_stderr_follows_replacements(light, tmp_path):
    """Libraries save a reference to sys.stderr on import, and programs replace sys.stderr later."""
    (tmp_path / "packages/package.py").write_text("import sys\nkept = sys.stderr\n")
    code = (
        "import io, package, sys\nsys.stderr = io.StringIO()\npackage.kept.write('x')\nprint([sys.stderr.getvalue()])"
    )
    assert output(light(code)) == (0, "['x']\n")


def test_import_that_opens_a_gpu_is_not_forked(monkeypatch):
    monkeypatch.setattr(Path, "readlink", lambda path: Path("/dev/nvidia0"))
    monkeypatch.setattr(warm_server.threading, "active_count", lambda: 1)  # pytest-xdist starts threads
    with pytest.raises(SystemExit, match="GPU"):
        warm_server.check_forkable()


def test_other_user_is_refused(monkeypatch, tmp_path):
    """The server checks the credentials of the connection."""
    import socket

    path = tmp_path / "a.socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    server = warm_server.WarmServer(listener, path, 1.0, [])
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    monkeypatch.setattr(warm_server, "receive_request", lambda client: pytest.fail("the server reads the request"))
    monkeypatch.setattr(warm_server.os, "getuid", lambda: 12345)
    assert server.accept() is None
    assert client.recv(1) == b""


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_folder_that_others_can_open_is_refused(light, tmp_path, sockets, kind):
    folder = sockets / f"prefloop-{os.getuid()}"
    if kind == "link":
        (tmp_path / "other").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "other")
    elif kind == "file":
        folder.touch(mode=0o600)
    else:
        folder.mkdir()
        folder.chmod(0o750)
    code, text = output(light("print('done')"))
    assert code == 0
    assert text.startswith("debug: program.py starts in a new process: ") and text.endswith("\ndone\n")
    with pytest.raises((WarmStartError, FileExistsError)):
        socket_folder()


def test_key_depends_on_inherited_attributes(monkeypatch):
    key = attributes_key(Path("a.py"))
    for name in ("PREFLOOP_LOG", "PREFLOOP_GPUS", "PWD", "PYTEST_CURRENT_TEST"):
        monkeypatch.setenv(name, "other")
    assert attributes_key(Path("a.py")) == key
    assert attributes_key(Path("b.py")) != key
    before = os.umask(0o077)
    assert attributes_key(Path("a.py")) != key
    os.umask(before)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert attributes_key(Path("a.py")) != key


def test_runs_of_the_benchmark_start_warm_processes_of_their_own(monkeypatch, tmp_path):
    """TRL starts cold, so a timed run must not find the imports of an earlier one."""
    run_prefloop = runpy.run_path(str(ROOT / "benchmarks/round.py"))["run_prefloop"]
    folders, pairs = [], tmp_path / "results/round/uniform/seed-0/round-1/pairs.jsonl"

    def run(*_, env, **__):
        monkeypatch.setenv("XDG_RUNTIME_DIR", env["XDG_RUNTIME_DIR"])
        folders.append(socket_folder())
        pairs.parent.mkdir(parents=True)
        pairs.write_text("{}\n")
        return subprocess.CompletedProcess([], 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert [run_prefloop(tmp_path) for _ in range(2)] == [1, 1]
    assert folders[0] != folders[1] and not list(folders[1].iterdir())
