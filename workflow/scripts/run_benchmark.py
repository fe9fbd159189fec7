"""Run the user's benchmark command on a model folder, and store its score."""

import shutil
import subprocess
import sys
from pathlib import Path

from _program import run
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.core.progress import Summary
from prefloop.evaluation.benchmark_runs import filled, read_number


def main(*, manifest: Path, policy: str, command: str, file: str, value: tuple[str, ...], output: Path) -> Summary:
    """Run the command in a shell, in the run's working directory.

    Args:
        manifest: Manifest of the model, next to its other files.
        policy: Name of the policy, for {policy}.
        command: A shell command; {model} is the model's folder and {output} an empty folder for its files.
        file: Glob pattern of the JSON file that the command writes below {output}.
        value: Keys that lead to the score in that file.
        output: Output path for the score.
    """
    folder = output.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = {"model": str(manifest.parent), "output": str(folder), "policy": policy}
    sys.stdout.flush()
    done = subprocess.run(filled(command, words), shell=True, check=False, stdout=sys.stdout, stderr=sys.stderr)
    if done.returncode:
        raise InputError(
            f"evaluation.benchmark.command: exit status {done.returncode}; its output is above, in the log"
        )
    number = read_number(folder, file, value)
    write_json(output, {"value": number})
    return Summary(f"benchmark of {policy}", result=f"{number:g}")


run(main)
