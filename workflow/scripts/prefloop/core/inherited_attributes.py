"""A key of the attributes that a process inherits from its parent.

A stage is forked only from a process with the same key. Its limits, umask, ignored signals, capabilities, CPUs, control
groups, namespaces and everything that imports read from the environment are therefore those of a new process.
"""

import hashlib
import os
import sys
from pathlib import Path

# Variables that differ between jobs of one run and that no import reads: the log, the number of GPUs, the shell's own
# variables and those of pytest.
JOB_VARIABLES = {"PREFLOOP_LOG", "PREFLOOP_GPUS", "PWD", "OLDPWD", "SHLVL", "_"}
PYTEST_PREFIX = "PYTEST_"
# Lines of /proc/self/status that children inherit.
STATUS = ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "Cap", "NoNewPrivs", "Seccomp", "Cpus_", "Mems_")


def attributes_key(program: Path) -> str:
    """Return 16 hexadecimal digits that identify Python, its environment, inherited attributes and a program."""
    parts = [sys.executable, sys.version, str(program)]
    parts += [f"{name}={value}" for name, value in sorted(os.environ.items()) if is_inherited(name)]
    parts += inherited_attributes()
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def is_inherited(name: str) -> bool:
    """Whether an environment variable is part of the key."""
    return name not in JOB_VARIABLES and not name.startswith(PYTEST_PREFIX)


def inherited_attributes() -> list[str]:
    """Return attributes of this process that its children inherit, read from /proc on Linux."""
    proc = Path("/proc/self")
    status = [line for line in read_text(proc / "status").splitlines() if line.startswith(STATUS)]
    texts = [read_text(proc / name) for name in ("limits", "cgroup", "oom_score_adj", "attr/current")]
    links = [str(link.readlink()) for link in [proc / "root", *sorted((proc / "ns").iterdir())]]
    priorities = [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)]
    return [*status, *texts, *links, *map(str, priorities)]


def read_text(path: Path) -> str:
    """Return the text of a file of /proc; empty if this kernel does not have the file."""
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""
