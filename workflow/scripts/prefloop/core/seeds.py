"""Random numbers by name: equal names give equal numbers on every machine and in any order of jobs."""

import hashlib

import numpy as np


def seed_for(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose of one run, e.g. `seed_for(0, "generate", "round-1/step-2", prompt_id)`.

    Unlike `hash` it is stable across processes and Python versions. ("1", "2") and ("12",) give different seeds.
    """
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng_for(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose of one run."""
    return np.random.Generator(np.random.Philox(seed_for(seed, *names)))
