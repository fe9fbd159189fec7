"""Compare acquisition rules, which choose the responses to label, on planted rewards without a language model.

    OMP_NUM_THREADS=1 python benchmarks/acquisition.py [--seeds 30]

Each seed plants linear weights on random features. A response's reward is the linear part plus an unexplained part,
whose size is `--unexplained` times that of the linear part. In each of ten steps every rule labels two of eight
responses to the same 16 prompts. After each step the head is refitted to all labels of the rule so far: to rewards, or
to one judgment per pair, drawn from a Bradley–Terry model. `all` labels all eight responses and takes the best and the
worst, with four times as many labels.

Columns are means over prompts from the second step on, in standard deviations of the reward: the gap of the labeled
pair, its difference from random pairs (with a paired 95 % interval over seeds), and the regret, by which the gap of the
best and the worst response is larger. `correlation` is between predicted and true rewards within prompts at the last
step.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import t

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workflow/scripts"))

from prefloop.core.seeds import rng_for
from prefloop.methods.acquisition import ACQUISITIONS, acquire
from prefloop.methods.reward_head import LinearHead, fit_judgments, fit_rewards, sigmoid

STEPS, PROMPTS, RESPONSES, FEATURES = 10, 16, 8, 32
LABELS = 2
CONFIDENCE = 1.0
RULES = {"rewards": (*ACQUISITIONS, "all"), "judgments": tuple(ACQUISITIONS)}


class Planted:
    """The weights of one seed, and the features and rewards of all steps."""

    def __init__(self, seed: int, unexplained: float) -> None:
        rng = rng_for(seed, "planted")
        weights = rng.standard_normal(FEATURES) / np.sqrt(FEATURES)
        shape = (STEPS, PROMPTS, RESPONSES)
        features = rng.standard_normal((*shape, FEATURES))
        self.features = features - features.mean(axis=2, keepdims=True)
        rewards = self.features @ weights
        rewards = rewards / rewards.std() + unexplained * rng.standard_normal(shape)
        self.rewards = rewards / rewards.std()


def fit(labeled: list[tuple[np.ndarray, np.ndarray]], kind: str, rng: np.random.Generator) -> LinearHead:
    """The head, fitted to labeled responses; each prompt has (features, rewards) of its labeled responses."""
    if kind == "rewards":
        prompts = [prompt for prompt, (_, rewards) in enumerate(labeled) for _ in rewards]
        return fit_rewards(np.vstack([x for x, _ in labeled]), np.concatenate([r for _, r in labeled]), prompts)
    differences = np.stack([features[0] - features[1] for features, _ in labeled])
    gaps = np.array([rewards[0] - rewards[1] for _, rewards in labeled])
    return fit_judgments(differences, (rng.random(len(gaps)) < sigmoid(gaps)).astype(float))


def run_rule(rule: str, kind: str, planted: Planted, seed: int) -> tuple[float, float, float]:
    """Mean gap and mean regret from the second step on, and the last correlation, for one rule and one seed."""
    head, labeled, gaps, regrets, correlation = None, [], [], [], float("nan")
    for step in range(STEPS):
        if head is not None:
            predicted = planted.features[step] @ head.mean
            within = planted.rewards[step] - planted.rewards[step].mean(axis=1, keepdims=True)
            correlation = float(np.corrcoef(predicted.ravel(), within.ravel())[0, 1])
        for prompt in range(PROMPTS):
            features, rewards = planted.features[step, prompt], planted.rewards[step, prompt]
            rng = rng_for(seed, "acquisition", step, prompt)
            if rule == "all":
                chosen = [int(rewards.argmax()), int(rewards.argmin())]
                labeled.append((features, rewards))
            else:
                chosen = acquire(rule, head, features, LABELS, CONFIDENCE, rng)
                labeled.append((features[chosen], rewards[chosen]))
            gap = abs(float(rewards[chosen[0]] - rewards[chosen[1]]))
            if step > 0:
                gaps.append(gap)
                regrets.append(float(np.ptp(rewards)) - gap)
        # Judgments are redrawn for all pairs with the same random numbers, so that earlier ones do not change.
        head = fit(labeled, kind, rng_for(seed, "judgments"))
    return float(np.mean(gaps)), float(np.mean(regrets)), correlation


def interval(values: np.ndarray) -> str:
    """Mean and 95 % interval over seeds, with Student's t."""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.2f} ({values.mean() - half:.2f} to {values.mean() + half:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--unexplained", type=float, nargs="*", default=[0.5, 2.0])
    given = parser.parse_args()
    print("| labels | unexplained | rule | gap | minus random_pair | regret | correlation |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for kind, rules in RULES.items():
        for unexplained in given.unexplained:
            worlds = [Planted(seed, unexplained) for seed in range(given.seeds)]
            found = {
                rule: np.array([run_rule(rule, kind, world, seed) for seed, world in enumerate(worlds)])
                for rule in rules
            }
            for rule, values in found.items():
                gain = interval(values[:, 0] - found["random_pair"][:, 0]) if rule != "random_pair" else ""
                cells = [kind, unexplained, f"`{rule}`", interval(values[:, 0]), gain, interval(values[:, 1])]
                print(f"| {' | '.join(map(str, cells))} | {values[:, 2].mean():.2f} |", flush=True)


if __name__ == "__main__":
    main()
