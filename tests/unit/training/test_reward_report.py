"""Reports of reward models: hand-computed values, and warnings about length rules."""

import json
import math
import re

import numpy as np
import pytest

from prefloop.training.reward_report import eval_report

# Gap, accuracy, and how much longer the chosen response is; a gap of log(p / (1 − p)) is a confidence of p.
EIGHT = [
    (math.log(11 / 9), 1, 5),  # 0.55
    (-math.log(5 / 3), 0, -3),  # 0.625
    (0.0, 0.5, 2),  # 0.5, counts half
    (math.log(3), 1, 0),  # 0.75, and length counts half
    (math.log(19), 1, -4),  # 0.95
    (math.log(19), 1, 1),
    (-math.log(19), 0, 7),
    (math.log(19), 1, -2),
]


def test_report_by_hand():
    gaps, right, longer = np.array(EIGHT).T
    measured = eval_report(gaps, longer, np.random.default_rng(0))
    assert measured["eval_pairs"] == 8
    assert measured["accuracy"][0] == right.mean() == 5.5 / 8
    assert (measured["longer_wins"], measured["shorter_wins"]) == (4.5 / 8, 3.5 / 8)
    assert measured["lead_over_length"][0] == 1 / 8
    for name in ("accuracy", "lead_over_length"):
        mean, low, high = measured[name]
        assert low < mean < high
    assert measured["calibration"] == [
        pytest.approx({"pairs": 2, "confidence": 0.525, "accuracy": 0.75}),
        pytest.approx({"pairs": 1, "confidence": 0.625, "accuracy": 0.0}),
        pytest.approx({"pairs": 1, "confidence": 0.75, "accuracy": 1.0}),
        pytest.approx({"pairs": 4, "confidence": 0.95, "accuracy": 0.75}),
    ]
    assert measured["calibration_error"] == pytest.approx((2 * 0.225 + 1 * 0.625 + 1 * 0.25 + 4 * 0.2) / 8)
    given = [0.55, 0.375, 0.5, 0.75, 0.95, 0.95, 0.05, 0.95]  # of the preferred response
    assert measured["log_loss"] == pytest.approx(-sum(map(math.log, given)) / 8)


def test_better_length_rule_is_the_baseline():
    """With negated length differences, "shorter wins" replaces "longer wins" and the lead is unchanged."""
    gaps, _, lengths = np.array(EIGHT).T
    longer, shorter = (eval_report(gaps, sign * lengths, np.random.default_rng(0)) for sign in (1, -1))
    assert (shorter["longer_wins"], shorter["shorter_wins"]) == (longer["shorter_wins"], longer["longer_wins"])
    assert shorter["lead_over_length"] == longer["lead_over_length"]
    assert '"longer wins"' in longer["warning"] and '"shorter wins"' in shorter["warning"]


def test_certain_model_has_no_uncertainty():
    measured = eval_report(np.full(4, 1000.0), np.zeros(4), np.random.default_rng(0))
    assert measured["accuracy"] == [1.0, 1.0, 1.0]
    assert measured["lead_over_length"] == [0.5, 0.5, 0.5]
    assert measured["calibration"] == [{"pairs": 4, "confidence": 1.0, "accuracy": 1.0}]
    assert (measured["calibration_error"], measured["log_loss"]) == (0.0, 0.0)
    json.dumps(measured, allow_nan=False)


def test_counting_characters_gives_a_warning():
    """The model always agrees with "longer wins", which is correct on 3 of 4 pairs, so it has no lead."""
    lengths = np.array([1, 2, 3, -4] * 10)
    measured = eval_report(0.1 * lengths, lengths, np.random.default_rng(0))
    assert re.search(
        r'does not beat "longer wins" on 40 held-out.*0\.750 against 0\.750, lead \+0\.000 \[\+0\.000, \+0\.000\]',
        measured["warning"],
    )


def test_insignificant_lead_gives_a_warning():
    gaps, _, longer = np.array(EIGHT).T
    measured = eval_report(gaps, longer, np.random.default_rng(0))
    mean, low, high = measured["lead_over_length"]
    assert low < 0 < mean
    assert 'has not been shown to beat "longer wins" on 8 held-out pairs' in measured["warning"]
    assert f"accuracy 0.688 against 0.562, lead +0.125 [{low:+.3f}, {high:+.3f}]" in measured["warning"]


def test_significant_lead_gives_no_warning():
    """The model is correct on 9 of 10 pairs, and length on 2 of 3."""
    gaps, lengths = np.array([1.0] * 9 + [-1.0]), np.array([1, 1, -1])
    measured = eval_report(np.tile(gaps, 30), np.tile(lengths, 100), np.random.default_rng(0))
    assert measured["lead_over_length"][0] == pytest.approx(0.9 - 2 / 3)
    assert measured["warning"] is None
