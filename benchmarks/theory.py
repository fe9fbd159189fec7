"""Time the tabular simulation of 100 seeds at once, compared with one seed of two simple implementations.

    OMP_NUM_THREADS=1 python benchmarks/theory.py

`loops` is plain Python with loops over pairs of actions or over sampled pairs, as in the definitions. `torch` is one
seed with autograd, as in the released script. All record the same four measures before each update. Each repetition
times all of them in turn, so that they have the same load. The output is a Markdown table with medians of five.
"""

import math
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow/scripts"))

from prefloop.methods.tabular import multinomial_draw, normal_rewards, simulate  # noqa: E402

ACTIONS, BETA, PAIRS, SEEDS, REPEATS = 20, 3.0, 8192, 100, 5
EXACT, EMPIRICAL = {"steps": 100, "rate": 10.0}, {"steps": 30, "rate": 0.05}


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def pair_weight(sampler: str, r: float, x: float) -> float:
    z = r if sampler == "mix_r" else x if sampler == "mix_p" else 0.0
    return 1 / (sigmoid(z) * sigmoid(-z))


def loop_measures(rewards: list[float], theta: list[float]) -> float:
    """Compute the four measures that `simulate` records before an update, and return the mean |δ|."""
    size = len(rewards)
    gap = [r - BETA * t for r, t in zip(rewards, theta, strict=True)]
    largest, total = max(gap) - min(gap), sum(abs(a - b) for a in gap for b in gap)
    normalizer = math.log(sum(math.exp(t) for t in theta))
    value = sum(math.exp(t - normalizer) * (r - BETA * (t - normalizer)) for r, t in zip(rewards, theta, strict=True))
    lacking = BETA * math.log(sum(math.exp(r / BETA) for r in rewards)) - value
    return total / size**2 if lacking <= largest else math.inf  # it always is


def loop_exact(rewards: list[float], sampler: str, steps: int, rate: float) -> float:
    """One seed with loops over all pairs; the mean |δ| at the last update."""
    size, theta, error = len(rewards), [0.0] * len(rewards), 0.0
    for _ in range(steps):
        error = loop_measures(rewards, theta)
        gains, total = [0.0] * size, 0.0
        for a in range(size):
            for b in range(size):
                r, x = rewards[a] - rewards[b], BETA * (theta[a] - theta[b])
                w = pair_weight(sampler, r, x)
                total += w
                gains[a] += w * (sigmoid(r) - sigmoid(x))
        theta = [t + 2 * rate * BETA * gain / total for t, gain in zip(theta, gains, strict=True)]
    return error


def loop_empirical(rewards: list[float], sampler: str, steps: int, rate: float) -> float:
    """One seed with a loop over sampled pairs; the mean |δ| at the last update."""
    size, theta, error = len(rewards), [0.0] * len(rewards), 0.0
    pairs = [(a, b) for a in range(size) for b in range(size)]
    for _ in range(steps):
        x = [[BETA * (theta[a] - theta[b]) for b in range(size)] for a in range(size)]
        error = loop_measures(rewards, theta)
        weights = [pair_weight(sampler, rewards[a] - rewards[b], x[a][b]) for a, b in pairs]
        gains = [0.0] * size
        for a, b in random.choices(pairs, weights, k=PAIRS):
            if random.random() >= sigmoid(rewards[a] - rewards[b]):
                a, b = b, a
            pull = sigmoid(-x[a][b])
            gains[a] += pull
            gains[b] -= pull
        theta = [t + rate * BETA * gain / PAIRS for t, gain in zip(theta, gains, strict=True)]
    return error


def run_torch(rewards: torch.Tensor, sampler: str, steps: int, rate: float, pairs: int | None = None) -> float:
    """One seed with autograd, for exact gradients or sampled pairs; the mean |δ| at the last update."""
    theta, r = torch.zeros_like(rewards, requires_grad=True), rewards[:, None] - rewards
    optimizer, preference, error = torch.optim.SGD([theta], lr=rate), torch.sigmoid(r), 0.0
    for _ in range(steps):
        logp = theta.log_softmax(0)
        x = BETA * (logp[:, None] - logp)
        with torch.no_grad():
            delta = (r - x).abs()
            value = (logp.exp() * (rewards - BETA * logp)).sum()
            measured = [delta.max(), value, BETA * (rewards / BETA).logsumexp(0) - value]
            error = delta.mean().item() if torch.stack(measured).isfinite().all() else math.inf
        z = {"unif": torch.zeros_like(r), "mix_r": r, "mix_p": x.detach()}[sampler]
        weights = 1 / (torch.sigmoid(z) * torch.sigmoid(-z))
        weights = weights / weights.sum()
        if pairs is None:
            loss = -(weights * (preference * F.logsigmoid(x) + (1 - preference) * F.logsigmoid(-x))).sum()
        else:
            drawn = torch.multinomial(weights.flatten(), pairs, replacement=True)
            sign = 2 * torch.bernoulli(preference.flatten()[drawn]) - 1
            loss = -F.logsigmoid(sign * x.flatten()[drawn]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return error


def run_all_seeds(rewards: np.ndarray, sampler: str, steps: int, rate: float, pairs: int | None = None) -> float:
    """All seeds with the library's function; the first seed's mean |δ| at the last update."""
    draw = multinomial_draw(pairs, ACTIONS, np.random.Generator(np.random.SFC64(0))) if pairs else None
    return simulate(rewards, sampler, steps=steps, beta=BETA, learning_rate=rate, draw=draw)["param_diff"][0, -1]


def time_of(work: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    torch.set_num_threads(1)
    rewards = normal_rewards(list(range(1234567, 1234567 + SEEDS)), ACTIONS)
    first_rewards, tensor = rewards[0].tolist(), torch.from_numpy(rewards[0])
    names = ["prefloop, 100 seeds", "loops, 1 seed", "torch, 1 seed"]
    print(
        f"{platform.processor() or platform.machine()}, one thread; Python {platform.python_version()}, "
        f"NumPy {np.__version__}, torch {torch.__version__}; medians of {REPEATS}, milliseconds per update\n"
    )
    print(f"| gradients | sampler | {' | '.join(names)} | loops / prefloop |\n|---|---|{'---:|' * (len(names) + 1)}")
    for kind, setting, pairs in [("exact", EXACT, None), ("sampled", EMPIRICAL, PAIRS)]:
        loops = loop_exact if pairs is None else loop_empirical
        for sampler in ["unif", "mix_r", "mix_p"]:
            works = [
                lambda: run_all_seeds(rewards, sampler, pairs=pairs, **setting),  # noqa: B023  called before they change
                lambda: loops(first_rewards, sampler, **setting),  # noqa: B023
                lambda: run_torch(tensor, sampler, pairs=pairs, **setting),  # noqa: B023
            ]
            timed = [[time_of(work) for work in works] for _ in range(REPEATS)]
            errors = [result for _, result in timed[0]]
            # They may differ only by rounding or, for sampled pairs, by sampling noise.
            assert np.allclose(errors, errors[0], rtol=1e-6 if pairs is None else 0.05, atol=1e-14), errors
            times = [statistics.median(row[i][0] for row in timed) * 1000 / setting["steps"] for i in range(len(works))]
            shown = " | ".join(f"{ms:.2f}" for ms in times)
            print(f"| {kind} | {sampler} | {shown} | {times[1] / times[0]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
