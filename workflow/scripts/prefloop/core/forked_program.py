"""Turns a forked process into the equivalent of a new `python program flags`."""

import atexit
import ctypes
import gc
import importlib
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from prefloop.core.warm_server import StartRequest, WarmServer, check_forkable, imported_files
from prefloop.core.warm_start import debug_line


class CurrentError:
    """A proxy that looks up the current `sys.stderr` at each access.

    It replaces `sys.stderr` during imports, because some modules keep a reference to that object.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if sys.stderr is not self else sys.__stderr__, name)


def serve_programs(import_packages: Callable[[], None], scripts: Path) -> None:
    """Serve as the warm process, which `warm_start.start_server` has started. In a forked process, run a program.

    Args:
        import_packages: Imports the packages that programs need.
        scripts: The folder of the programs. Their own modules are not imported in advance.
    """
    listener, path, idle = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]), float(sys.argv[3])
    stderr, written = sys.stderr, io.StringIO()
    sys.__stderr__ = written  # type: ignore
    sys.stderr = CurrentError()  # type: ignore[assignment]
    gc.disable()
    import_packages()
    sys.__stderr__ = stderr  # type: ignore
    check_forkable()
    request = WarmServer(listener, path, idle, imported_files(scripts)).serve()
    if request is not None:
        become(request)
        sys.stderr.write(written.getvalue())  # warnings of the imports
        gc.enable()
        run_as_main(sys.argv[0])


def become(request: StartRequest) -> None:
    """Take over the streams, working directory, environment and arguments of a program.

    If that fails, the program starts in a new Python interpreter, which replaces this process.
    """
    os.setsid()
    *streams, folder = request.descriptors
    os.fchdir(folder)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    for descriptor in request.descriptors:
        os.close(descriptor)
    try:
        replace_state(request)
    except Exception as error:
        os.write(2, debug_line(request.argv[1], error).encode())
        os.execve(sys.executable, request.argv, request.environment)


def replace_state(request: StartRequest) -> None:
    """Set Python's own copies of the environment, streams and arguments to those of a program."""
    os.environ.clear()
    os.environ.update(request.environment)
    sys.stdin, sys.stdout = open_stream(0, sys.__stdin__), open_stream(1, sys.__stdout__)
    sys.__stdin__, sys.__stdout__ = sys.stdin, sys.stdout  # type: ignore[misc]
    sys.stderr = sys.__stderr__
    sys.orig_argv, sys.argv = request.argv, request.argv[1:]
    if not sys.flags.safe_path:
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    importlib.invalidate_caches()
    # A new process seeds these generators from system entropy. Python reseeds its own generator at every fork.
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


def open_stream(number: int, old: Any) -> Any:
    """Open standard input or output as Python does at startup, with the encoding and error handling of `old`."""
    mode, unbuffered = "w" if number else "r", old.write_through
    binary: Any = open(number, f"{mode}b", buffering=0 if unbuffered else -1, closefd=False)  # noqa: PTH123, SIM115
    getattr(binary, "raw", binary).name = old.name
    by_line, newline = not unbuffered and binary.isatty(), "\n" if number else None
    stream: Any = io.TextIOWrapper(binary, old.encoding, old.errors, newline, by_line, unbuffered)
    stream.mode = mode
    return stream


def run_as_main(program: str) -> NoReturn:
    """Run a program as the module `__main__` and end this process with the exit status of a new one."""
    packages = set(sys.modules)
    status = run_program(program)
    end_process(status, packages)


def run_program(program: str) -> int:
    """Run a program as the module `__main__`, print the exception that ends it, and return its exit status."""
    main = ModuleType("__main__")
    file = str(Path(program).absolute())
    main.__dict__.update(__file__=file, __cached__=None, __builtins__=__builtins__, __annotations__={})
    main.__loader__ = SourceFileLoader("__main__", file)
    sys.modules["__main__"] = main
    try:
        exec(compile(Path(program).read_bytes(), file, "exec", dont_inherit=True), main.__dict__)
    except SystemExit as end:
        return exit_status(end.code)
    except BaseException as error:
        inner = error.__traceback__.tb_next if error.__traceback__ else None  # without the frame of this function
        sys.excepthook(type(error), error.with_traceback(inner), inner)
        if isinstance(error, KeyboardInterrupt):
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def exit_status(code: object) -> int:
    """Return the exit status for the argument of `sys.exit`, and print an argument that is no number."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def end_process(status: int, packages: set[str]) -> NoReturn:
    """End this process without destroying packages that the warm process has imported.

    Destroying them writes to their memory, which a fork has to copy first. This would take longer than many programs.
    Everything else is as at Python's end: threads are joined, functions of `atexit` run, the program's own objects are
    destroyed, and streams are flushed.

    Args:
        status: Exit status.
        packages: Names of the modules that the warm process has imported.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        sys.exit(status)  # flushes again, reports the error and ends with status 120
    for name in ["__main__", *sys.modules.keys() - packages]:
        del sys.modules[name]
    gc.collect()  # the objects of these modules; those of packages are frozen
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)  # streams of C
    os._exit(status)
