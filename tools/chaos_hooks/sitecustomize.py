"""Kill a stage at its renames. Python imports this file when it starts, from the folder to which tools/chaos.py copies
it.

CHAOS_RENAMES is the probability that a rename kills its process, either right before or right after it, with equal
probabilities. CHAOS_LOG is a file that gets a line for each kill.
"""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def deadly(rename: Callable[..., None], rate: float, log: str) -> Callable[..., None]:
    """A rename that may kill this process."""
    chance = random.Random()
    os.register_at_fork(after_in_child=chance.seed)  # so that programs of the warm process do not draw the same numbers

    def die(moment: str, target: object) -> None:
        with Path(log).open("a") as lines:
            lines.write(f"{moment} {os.fsdecode(target)}\n")  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGKILL)

    def rename_or_die(source: Any, target: Any, **options: Any) -> None:
        draw = chance.random()
        if draw < rate / 2:
            die("before", target)
        rename(source, target, **options)
        if draw > 1 - rate / 2:
            die("after", target)

    return rename_or_die


if "CHAOS_RENAMES" in os.environ and any("workflow/scripts/" in word for word in sys.orig_argv):
    arguments = float(os.environ["CHAOS_RENAMES"]), os.environ["CHAOS_LOG"]
    os.rename, os.replace = deadly(os.rename, *arguments), deadly(os.replace, *arguments)
