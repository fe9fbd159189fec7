"""Disturb an experiment repeatedly, and check that it ends with the same files.

    python tools/chaos.py --disturbances 100 --seed 0

It runs the tests' tiny experiment once undisturbed. Then it runs the experiment again, with another kind of disturbance
at each start of Snakemake:

* kill: random victims (Snakemake, one of its stages, or all at once) get SIGKILL or SIGTERM at random moments.
* rename: stages kill themselves right before or right after a rename, at random.
* disk: the disk of the results becomes full at a random moment. Stages must fail with one line.
* past: finished files get a modification time in the past.
* clock: the clock is set back by an hour at a random moment, so that all existing files are in the future. Snakemake
  must report this, and the remedy in docs/troubleshooting.md must help.

When Snakemake ends, it is started again at once, even if stages are still running. If it finishes before there were
enough disturbances, some of its files are deleted and it continues. In the end every file must have the bytes of the
undisturbed run, and no temporary file may be left.
"""

import argparse
import contextlib
import errno
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("workflow/scripts", "tests", "tests/helpers")]

import tiny  # noqa: E402
from conftest import Workdir  # noqa: E402

PROGRAM = re.compile(r"workflow/scripts/(?!_start\.py)")
# Files with durations.
MEASURED = ("*.cost.json", "training_speed.csv", "costs.csv", "costs.tex", "costs.rst")
SETTINGS = {"shards": 2, "train": {"save_every": 1}}
SMALL = {"rounds": 1, "steps": 1, "compare": ["dota"], "figures": ["arms"], "tables": []}
RESULTS = "results/tiny"
DISK_MB = 256
FULL = os.strerror(errno.ENOSPC)
OLDER = re.compile(r"has older modification time .* than input (\S+) ")
HOUR = 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disturbances", type=int, default=100, help="total number of disturbances")
    parser.add_argument("--seed", type=int, default=0, help="seed of victims, moments and signals")
    parser.add_argument("--pause", type=float, default=15.0, help="mean seconds before a disturbance")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="kinds of disturbances")
    parser.add_argument("--small", action="store_true", help="one method, one round and one figure")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the disk is unmounted
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder, "disturbed", RESULTS)) as problem:
        if problem and "disk" in arguments.kinds:
            print(f"disk: skipped, because no disk can be mounted: {problem}")
            arguments.kinds.remove("disk")
        model = tiny.make_model(Path(folder, "model"), "llama")
        calm, disturbed = (make(Path(folder, name), model, arguments.small) for name in ("calm", "disturbed"))
        done = calm.run()
        assert done.returncode == 0, done.stdout
        expected = hashes(calm)
        experiment = Disturbed(disturbed, random.Random(arguments.seed), arguments.pause)
        experiment.disturb(arguments.kinds, arguments.disturbances)
        finish(disturbed)
        found, left = hashes(disturbed), partials(disturbed)
    wrong = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    counts = experiment.counts
    print(f"\n{counts.total()} disturbances: {', '.join(f'{n} {name}' for name, n in counts.most_common())}")
    print(f"{experiment.starts} starts, after which there were up to {experiment.partials} temporary files")
    print(
        f"{len(expected)} files, {len(wrong)} differ, {len(left)} temporary" + "".join(f"\n  {p}" for p in wrong + left)
    )
    sys.exit(bool(wrong or left))


def make(path: Path, model: Path, small: bool) -> Workdir:
    """A working directory with its own clone, in which stages die at renames if environment variables ask for it."""
    path.mkdir(exist_ok=True)
    directory = Workdir(path, model)
    directory.configure(**SETTINGS | (SMALL if small else {}))
    directory.copy_sources()
    # A rule puts this folder into PYTHONPATH.
    shutil.copy(ROOT / "tools/chaos_hooks/sitecustomize.py", path / "workflow/scripts")
    return directory


def hashes(directory: Workdir) -> dict[str, str]:
    """SHA-256 by path of every file of the experiment without durations; the path of the directory is left out."""
    root, own = directory.path / RESULTS, str(directory.path).encode()
    files = [path for path in root.rglob("*") if path.is_file() and not any(map(path.match, MEASURED))]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes().replace(own, b"")).hexdigest() for path in files
    }


def partials(directory: Workdir) -> list[str]:
    """Temporary files and folders of atomic writes."""
    return sorted(str(path) for path in (directory.path / "results").rglob(".*.partial"))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """Mount a disk of `DISK_MB` at a folder; yields the reason if this is impossible, else an empty text."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        yield done.stderr.strip()
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)


class Disturbed:
    """A disturbed experiment, with its numbers of disturbances by name, of starts, and of temporary files left."""

    def __init__(self, directory: Workdir, chance: random.Random, pause: float) -> None:
        self.directory, self.chance, self.pause = directory, chance, pause
        self.root = directory.path / RESULTS
        self.counts: Counter[str] = Counter()
        self.starts = self.partials = 0

    def disturb(self, kinds: Sequence[str], count: int) -> None:
        """Start the experiment with each kind in turn, in complete rounds, until there were enough disturbances."""
        while self.counts.total() < count:
            for kind in kinds:
                code = KINDS[kind](self)
                self.starts += 1
                self.partials = max(self.partials, len(partials(self.directory)))
                check_logs(self.directory)
                print(f"{self.counts.total()} disturbances, last kind {kind}", file=sys.stderr, flush=True)
                if code == 0:
                    delete_results(self.directory, self.chance)

    def wait(self) -> float:
        """A random number of seconds."""
        return self.chance.expovariate(1 / self.pause)

    def kill(self) -> int:
        """Kill processes until Snakemake ends."""
        snakemake = launch(self.directory)
        while snakemake.poll() is None:
            try:
                snakemake.wait(self.wait())
            except subprocess.TimeoutExpired:
                self.counts.update(send_signals(snakemake.pid, self.chance))
        return snakemake.wait()

    def rename(self) -> int:
        """Let stages kill themselves at one of five renames; Snakemake tries each job three times."""
        log = self.directory.path / "renames.log"
        log.write_text("")
        hooks = {"CHAOS_RENAMES": "0.2", "CHAOS_LOG": str(log)}
        code = launch(self.directory, "--keep-going", "--retries", "2", **hooks).wait()
        self.counts.update(f"SIGKILL {line.split()[0]} a rename" for line in log.read_text().splitlines())
        return code

    def disk(self) -> int:
        """Fill the disk of the results at a random moment, except for some KiB; free it when Snakemake has ended."""
        snakemake, filler = launch(self.directory), self.root / "filler"
        with contextlib.suppress(subprocess.TimeoutExpired):
            snakemake.wait(self.wait())
        left = self.chance.choice([0, 0, 4, 16, 64]) * 1024
        with filler.open("wb") as file, contextlib.suppress(OSError):  # a stage took the space in the meantime
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(self.root).free - left))
        code = snakemake.wait()
        filler.unlink()
        if code:
            full = [log for log in logs(self.directory) if FULL in log.read_text()]
            self.counts["full disk"] += bool(full)
        return code

    def past(self) -> int:
        """Give finished files older modification times; stages that read or wrote them run again."""
        for path in self.chance.sample(files := self.files(), min(2, len(files))):
            when = path.stat().st_mtime - self.chance.uniform(1, 24 * HOUR)
            with contextlib.suppress(FileNotFoundError):  # of a stage that has outlived its Snakemake
                os.utime(path, (when, when))
                self.counts["time in the past"] += 1
        return launch(self.directory).wait()

    def clock(self) -> int:
        """Set the clock back by an hour, so that existing files are in the future; touch what Snakemake reports."""
        log, snakemake = self.directory.path / "snakemake.log", launch(self.directory)
        said = log.stat().st_size
        with contextlib.suppress(subprocess.TimeoutExpired):
            snakemake.wait(self.wait())
        for path in self.files():
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (path.stat().st_mtime + HOUR, path.stat().st_mtime + HOUR))
        code = snakemake.wait()
        self.counts["clock set back"] += 1
        while code and (older := OLDER.search(log.read_text()[said:])):
            self.touch(older[1])
            said = log.stat().st_size
            code = launch(self.directory).wait()
        if code == 0:
            self.touch()  # files that no stage has read since then
        return code

    def touch(self, *targets: str) -> None:
        """Apply the remedy for a clock that was set back."""
        done = self.directory.run("--touch", "--forceall", *targets)
        assert done.returncode == 0, done.stdout

    def files(self) -> list[Path]:
        """Files that stages have written."""
        return sorted(path for path in self.root.rglob("*") if path.is_file() and not path.match(".*.partial"))


KINDS: dict[str, Callable[[Disturbed], int]] = {
    "kill": Disturbed.kill,
    "rename": Disturbed.rename,
    "disk": Disturbed.disk,
    "past": Disturbed.past,
    "clock": Disturbed.clock,
}


def launch(directory: Workdir, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start Snakemake as after a crash: the lock of a killed process is removed first, as with --unlock."""
    shutil.rmtree(directory.path / ".snakemake/locks", ignore_errors=True)
    command = directory.command(*arguments)
    command["env"] |= environment
    with (directory.path / "snakemake.log").open("a") as log:
        return subprocess.Popen(**command, stdout=log, stderr=log)


def send_signals(snakemake: int, chance: random.Random) -> list[str]:
    """Send a signal to Snakemake, to one of its stages, or to all of them at once; return signals and names."""
    struck = []
    try:
        parent = psutil.Process(snakemake)
        stages = [child for child in parent.children(recursive=True) if stage_of(child)]
        one = chance.sample(stages, min(1, len(stages)))
        number = chance.choice([signal.SIGKILL, signal.SIGTERM])
        for victim in chance.choice([[parent], one, one, one, [parent, *stages]]):
            name = "snakemake" if victim.pid == snakemake else stage_of(victim)
            victim.send_signal(number)
            struck.append(f"{number.name} {name}")
    except psutil.NoSuchProcess:
        pass  # it has ended in the meantime
    return struck


def stage_of(process: psutil.Process) -> str | None:
    """The name of the stage that a process runs, or starts from the warm process; None for other processes."""
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:  # zombies, too
        return None
    is_python = bool(words) and Path(words[0]).name.startswith("python")
    return next((Path(word).stem for word in words if is_python and PROGRAM.search(word)), None)


def logs(directory: Workdir) -> list[Path]:
    return list((directory.path / "results/logs").rglob("*.log"))


def check_logs(directory: Workdir) -> None:
    """Exit if the log of a stage has an error other than the line about the full disk."""
    for log in logs(directory):
        text = log.read_text()
        errors = [line for line in text.splitlines() if "error:" in line and FULL not in line]
        if "Traceback" in text or errors:
            sys.exit(f"{log} has an error, although the experiment was only disturbed:\n{text}")


def delete_results(directory: Workdir, chance: random.Random) -> None:
    """Delete the last rounds of a method, and the figures and tables."""
    results = directory.path / RESULTS
    rounds = sorted(chance.choice(sorted(results.glob("*/seed-0"))).glob("round-*"))
    for folder in rounds[chance.randrange(len(rounds)) :]:
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("figures", "tables"):
        shutil.rmtree(results / name, ignore_errors=True)


def finish(directory: Workdir) -> None:
    """Wait for stages that are still running without Snakemake, then run to the end. A second run must have no jobs."""
    orphans = [process for process in psutil.process_iter() if is_in(process, directory) and stage_of(process)]
    psutil.wait_procs(orphans, timeout=120)
    for arguments in (["--unlock"], []):
        done = directory.run(*arguments)
        assert done.returncode == 0, done.stdout
    check_logs(directory)
    assert directory.jobs() == set(), "a second run has jobs"


def is_in(process: psutil.Process, directory: Workdir) -> bool:
    try:
        return process.cwd() == str(directory.path)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


if __name__ == "__main__":
    main()
