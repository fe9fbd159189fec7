"""Kill an experiment at random, again and again, and see whether it ends in the same files.

    python tests/chaos.py --kills 50 --seed 0

Runs the tests' tiny experiment once undisturbed. Then runs it again while random victims (Snakemake, one of its
stages, or everything at once) get SIGKILL or SIGTERM at random moments; every time Snakemake ends, it is started
again, at once, also beside stages that outlived it. When it comes to its end before there were enough kills, some of
its files are deleted and it goes on. In the end every file must have the bytes of the undisturbed run.
"""

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent / "workflow/scripts"), str(TESTS / "helpers")]

import tiny  # noqa: E402
from conftest import Workdir  # noqa: E402

# They say how long something took; or were being written when SIGKILL came, under names that nobody reads.
MEASURED = ("*.cost.json", "training_speed.csv", "costs.csv", "costs.tex", "costs.rst", ".*.partial")
SETTINGS = {"shards": 2, "train": {"save_every": 1}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="processes to kill")
    parser.add_argument("--seed", type=int, default=0, help="of victims, moments and signals")
    parser.add_argument("--pause", type=float, default=15.0, help="mean seconds between kills")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = tiny.make_model(Path(folder, "model"), "llama")
        calm = make(Path(folder, "calm"), model)
        done = calm.run()
        assert done.returncode == 0, done.stdout
        expected = hashes(calm)
        disturbed = make(Path(folder, "disturbed"), model)
        killed = disturb(disturbed, random.Random(arguments.seed), arguments.kills, arguments.pause)
        finish(disturbed)
        found = hashes(disturbed)
    wrong = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    print(f"{sum(killed.values())} killed: {', '.join(f'{n} {name}' for name, n in killed.most_common())}")
    print(f"{len(expected)} files, {len(wrong)} differ" + "".join(f"\n  {path}" for path in wrong))
    sys.exit(bool(wrong))


def make(path: Path, model: Path) -> Workdir:
    path.mkdir()
    directory = Workdir(path, model)
    directory.configure(**SETTINGS)
    return directory


def hashes(directory: Workdir) -> dict[str, str]:
    """SHA-256 of every file of the experiment that is not measured, by its path."""
    root = directory.path / "results/tiny"
    files = [path for path in root.rglob("*") if path.is_file() and not any(map(path.match, MEASURED))]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def disturb(directory: Workdir, chance: random.Random, kills: int, pause: float) -> Counter:
    """Run the experiment until so many processes have been killed; how many of each kind, by signal and name."""
    killed = Counter()
    while killed.total() < kills:
        snakemake = launch(directory)
        while snakemake.poll() is None and killed.total() < kills:
            try:
                snakemake.wait(chance.expovariate(1 / pause))
            except subprocess.TimeoutExpired:
                killed.update(strike(snakemake.pid, chance))
                print(f"\r{killed.total()} killed", end="", file=sys.stderr, flush=True)
        snakemake.wait()
        complain(directory)
        if snakemake.returncode == 0:
            forget(directory, chance)
    return killed


def launch(directory: Workdir) -> subprocess.Popen:
    """Start Snakemake as a person does after a crash: the lock of a killed one is removed first."""
    unlocked = directory.run("--unlock")
    assert unlocked.returncode == 0, unlocked.stdout
    with (directory.path / "snakemake.log").open("a") as log:
        return subprocess.Popen(**directory.command(), stdout=log, stderr=log)


def strike(snakemake: int, chance: random.Random) -> list[str]:
    """Send a signal to Snakemake, to one of its stages, or to all of them at once; what was struck."""
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
        pass  # it ended by itself in between
    return struck


def stage_of(process: psutil.Process) -> str | None:
    """The stage that a process is; None for the shell around it, for any other, and for one that has ended."""
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:  # zombies, too
        return None
    is_python = bool(words) and Path(words[0]).name.startswith("python")
    return next((Path(word).stem for word in words if is_python and word.startswith("workflow/scripts/")), None)


def complain(directory: Workdir) -> None:
    """Stop if a stage ended for another reason than a signal: it says so in its log."""
    for log in (directory.path / "results/logs").rglob("*.log"):
        text = log.read_text()
        if "Traceback" in text or "error:" in text:
            sys.exit(f"{log} says of an experiment that was only killed:\n{text}")


def forget(directory: Workdir, chance: random.Random) -> None:
    """Delete a method's last rounds, and what depends on them."""
    results = directory.path / "results/tiny"
    method, first = chance.choice(["dota", "uniform"]), chance.choice([1, 2])
    for number in range(first, 3):
        shutil.rmtree(results / method / f"seed-0/round-{number}", ignore_errors=True)
    for folder in ("figures", "tables"):
        shutil.rmtree(results / folder, ignore_errors=True)


def finish(directory: Workdir) -> None:
    """Wait for stages that outlived their Snakemake, then let one run to its end; a second one must find nothing."""
    orphans = [process for process in psutil.process_iter() if is_in(process, directory) and stage_of(process)]
    psutil.wait_procs(orphans, timeout=120)
    for arguments in (["--unlock"], []):
        done = directory.run(*arguments)
        assert done.returncode == 0, done.stdout
    complain(directory)
    assert directory.jobs() == set(), "a second run finds something to do"


def is_in(process: psutil.Process, directory: Workdir) -> bool:
    try:
        return process.cwd() == str(directory.path)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


if __name__ == "__main__":
    main()
