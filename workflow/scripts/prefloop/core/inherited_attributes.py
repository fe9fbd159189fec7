"""What a process inherits from its parent and keeps, as a key: equal keys mean that either could be the other's parent.

A stage is forked only by a process with the same key, so limits, umask, ignored signals, capabilities, CPUs, control
groups, namespaces and everything that is read from the environment at import are those of a new process.
"""

import hashlib
import os
import sys
from pathlib import Path

# Variables that differ between jobs of one run and that no import reads: the log and the number of GPUs, a shell's own,
# and those of pytest.
OF_A_JOB = {"PREFLOOP_LOG", "PREFLOOP_GPUS", "PWD", "OLDPWD", "SHLVL", "_"}
OF_PYTEST = "PYTEST_"
# Lines of /proc/self/status that children inherit.
STATUS = ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "Cap", "NoNewPrivs", "Seccomp", "Cpus_", "Mems_")


def attributes_key(program: Path) -> str:
    """Return 16 hexadecimal digits that identify Python, its environment, inherited attributes and a program."""
    parts = [sys.executable, sys.version, str(program)]
    parts += [f"{name}={value}" for name, value in sorted(os.environ.items()) if is_inherited(name)]
    parts += inherited_attributes()
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def is_inherited(name: str) -> bool:
    """Whether a variable of the environment counts for the key."""
    return name not in OF_A_JOB and not name.startswith(OF_PYTEST)


def inherited_attributes() -> list[str]:
    """Attributes of this process that its children have too. Only Linux has these files."""
    proc = Path("/proc/self")
    status = [line for line in read_text(proc / "status").splitlines() if line.startswith(STATUS)]
    texts = [read_text(proc / name) for name in ("limits", "cgroup", "oom_score_adj", "attr/current")]
    links = [str(link.readlink()) for link in [proc / "root", *sorted((proc / "ns").iterdir())]]
    priorities = [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)]
    return [*status, *texts, *links, *map(str, priorities)]


def read_text(path: Path) -> str:
    """The text of a file of /proc; empty where this kernel has none."""
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""
