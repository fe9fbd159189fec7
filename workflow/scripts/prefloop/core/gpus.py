"""GPUs that a process may use, and leases, which prevent parallel stages from sharing a GPU.

A lease locks one file per GPU. The kernel releases the locks when the process ends for any reason. CUDA reads
CUDA_VISIBLE_DEVICES when it starts, so a program takes its lease before that. The rule that starts the program sets the
number of GPUs in the environment variable PREFLOOP_GPUS. A launcher of several processes takes one lease for all of
them: `python -m prefloop.core.gpus COMMAND` takes the lease and then runs the command in the same process.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path

from prefloop.core.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"
WANTED = "PREFLOOP_GPUS"
LOCKS = "PREFLOOP_GPU_LOCKS"  # another folder for the locks, for containers that share GPUs but not /tmp
DEVICE = "PREFLOOP_DEVICE"  # `cpu` hides all GPUs, including those that a scheduler has assigned to the job
LEASED: list[int] = []  # file descriptors of this process's locks; closing one would release its lock


@functools.cache
def installed_gpus() -> dict[str, str]:
    """Return the UUIDs of this machine's NVIDIA GPUs by index, as nvidia-smi lists them; empty without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    fields = [line.split(",") for line in listed.stdout.splitlines()] if listed.returncode == 0 else []
    return {index.strip(): uuid.strip() for index, uuid in fields}


def visible_gpus() -> list[str]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names, or the indices of all installed ones if it is not set.

    As in CUDA, the list ends at the first word that does not name a GPU, such as -1 or SLURM's NoDevFiles.
    """
    listed = os.environ.get(VISIBLE)
    if listed is None:
        return list(installed_gpus())
    names = [name.strip() for name in listed.split(",")]
    return list(takewhile(lambda name: re.fullmatch(r"\d+|(GPU|MIG)-.+", name), names))


def lease_gpus(count: int) -> None:
    """Wait for free GPUs, reserve them until this process ends, and hide all others from it.

    If CUDA_VISIBLE_DEVICES names at most `count` GPUs, a scheduler has assigned them to the job and no lease is needed.
    If it is not set and the machine has fewer than `count` GPUs, all of them are reserved.
    """
    visible, is_given = visible_gpus(), VISIBLE in os.environ
    if not count or not visible or (is_given and len(visible) <= count):
        return
    uuids = {name: installed_gpus().get(name, name) for name in visible}
    taken = take_locks(lock_folder(), uuids, min(count, len(visible)))
    os.environ[VISIBLE] = ",".join(taken)
    if not is_given:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of nvidia-smi's indices


def lease_requested_gpus() -> None:
    """Take the lease that PREFLOOP_GPUS requests, unless the launcher of several processes has taken it.

    Raises:
        InputError: PREFLOOP_DEVICE is set to something other than `cpu`.
    """
    if device := os.environ.get(DEVICE):
        if device != "cpu":
            raise InputError(f"{DEVICE}: {device!r}, expected cpu; unset it to use a GPU if there is one")
        if visible_gpus():
            os.environ[VISIBLE] = ""
    elif "LOCAL_RANK" not in os.environ:
        lease_gpus(int(os.environ.get(WANTED, 0)))


def lock_folder() -> Path:
    """Return the folder of this user's locks. It does not depend on TMPDIR, which can differ between two runs.

    Raises:
        InputError: The folder belongs to another user or is a link.
    """
    if own := os.environ.get(LOCKS):
        folder = Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(f"/tmp/prefloop-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder}: owned by another user or a link; set {LOCKS} to a folder of your own")
    return folder


def take_locks(folder: Path, uuids: dict[str, str], count: int) -> list[str]:
    """Wait until `count` GPUs are free and lock them.

    One process at a time collects locks while the others queue. Two processes therefore never wait for each other, and
    processes that need one GPU cannot overtake one that needs several.

    Args:
        folder: The folder of the locks.
        uuids: The GPUs to choose from: UUIDs by name.
        count: The number of GPUs to lock.

    Returns:
        The names of the locked GPUs.
    """
    import fcntl

    held: dict[str, int] = {}
    waiting = f"waiting for {count} of {len(uuids)} GPUs, which other stages use or wait for"
    is_waiting = False
    with (folder / "queue").open("a") as queue:
        try:
            fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_waiting = True
            print(waiting, flush=True)
            fcntl.flock(queue, fcntl.LOCK_EX)
        while True:
            for name in [name for name in uuids if name not in held]:
                descriptor = os.open(folder / uuids[name], os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    continue
                held[name] = descriptor
                if len(held) == count:
                    LEASED.extend(held.values())
                    return [name for name in uuids if name in held]
            if not is_waiting:
                is_waiting = True
                print(waiting, flush=True)
            time.sleep(0.2)


def main() -> None:
    """Take the requested lease, then run the command in the arguments in this process."""
    try:
        lease_requested_gpus()
    except InputError as error:
        sys.exit(f"error: {error}")
    for descriptor in LEASED:
        os.set_inheritable(descriptor, True)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
