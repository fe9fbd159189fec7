"""Randomness by name: the same names give the same numbers on every machine, in every order of work."""

import hashlib

import numpy as np


def seed_for(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose of one run, e.g. ``seed_for(0, "generate", round, step, prompt_id)``.

    Stable across processes and Python versions, unlike ``hash``; distinct for ("1", "2") and ("12",).
    """
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng_for(seed: int, *names: str | int) -> np.random.Generator:
    """NumPy's generator for one purpose of one run."""
    return np.random.Generator(np.random.Philox(seed_for(seed, *names)))
