"""Measure a reward model on held-out pairs."""

from typing import Any

import numpy as np

from prefloop.evaluation.inference import bootstrap_mean

BINS = 5  # rows of the calibration table, by confidence from 0.5 to 1


def eval_report(gaps: np.ndarray, length_differences: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Measure the accuracy of a reward model on held-out pairs, and compare it with rules about length.

    Args:
        gaps (np.ndarray): [pairs], r(chosen) − r(rejected) of the model.
        length_differences (np.ndarray): [pairs], length of the chosen response minus that of the rejected one.
        rng (np.random.Generator): For the bootstrap.

    Returns:
        dict: `accuracy` and `lead_over_length` are [mean, low, high], with 95 % bootstrap intervals over pairs; a tie
            is half right. The lead is over the better of the rules "longer wins" and "shorter wins". `calibration`
            compares the confidence σ(|gap|) with the accuracy of pairs with that confidence, and `calibration_error` is
            the mean absolute difference. `warning` is from `length_warning`.
    """
    correct, longer = 0.5 * (1 + np.sign(gaps)), 0.5 * (1 + np.sign(length_differences))
    baseline = longer if longer.mean() >= 0.5 else 1 - longer
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    bins = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    calibration = [
        {
            "pairs": int(count),
            "confidence": float(confidence[bins == i].mean()),
            "accuracy": float(correct[bins == i].mean()),
        }
        for i, count in enumerate(np.bincount(bins, minlength=BINS))
        if count
    ]
    error = sum(row["pairs"] * abs(row["confidence"] - row["accuracy"]) for row in calibration) / len(gaps)
    measured = {
        "eval_pairs": len(gaps),
        "accuracy": list(bootstrap_mean(correct, rng)),
        "longer_wins": float(longer.mean()),
        "shorter_wins": float(1 - longer.mean()),
        "lead_over_length": list(bootstrap_mean(correct - baseline, rng)),
        "log_loss": float(np.logaddexp(0, -gaps).mean()),
        "calibration_error": error,
        "calibration": calibration,
    }
    return measured | {"warning": length_warning(measured)}


def length_warning(measured: dict[str, Any]) -> str | None:
    """A warning for a reward model without a significant lead over rules about length, from its `eval_report`.

    Returns:
        str | None: None if its lead over both rules is significant.
    """
    lead, low, high = measured["lead_over_length"]
    rules = {"longer wins": measured["longer_wins"], "shorter wins": measured["shorter_wins"]}
    rule = max(rules, key=lambda name: rules[name])
    if low > 0:
        return None
    judgment = "does not beat" if lead <= 0 else "has not been shown to beat"
    return (
        f'the reward model {judgment} "{rule}" on {measured["eval_pairs"]} held-out pairs: accuracy '
        f"{measured['accuracy'][0]:.3f} against {rules[rule]:.3f}, lead {lead:+.3f} [{low:+.3f}, {high:+.3f}]; it "
        "may reward length: train it on more pairs, or on pairs from the domain that it will score"
    )
