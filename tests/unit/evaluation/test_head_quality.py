"""The correlation of the head's predictions with the labels collected afterwards."""

import math

import pandas as pd
import pytest

from prefloop.evaluation.head_quality import quality_of_step


def table(name: str, values: list) -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": list("aabb"), "response_id": [0, 1, 0, 1], name: values})


def test_correlation_is_within_prompts():
    """Centered predictions −1, 1, −1, 1 and labels −1, 1, 0, 0 give 2 / √(4 · 2)."""
    quality = quality_of_step(table("predicted", [0.0, 2, 10, 12]), table("reward", [5.0, 7, -3, -3]))
    assert quality == {"prompts": 2, "responses": 4, "correlation": pytest.approx(math.sqrt(0.5)), "gap": 1.0}


def test_without_a_head_there_is_no_correlation():
    quality = quality_of_step(table("predicted", [None] * 4), table("reward", [5.0, 7, 0, 3]))
    assert math.isnan(quality["correlation"])
    assert quality["gap"] == 2.5


def test_missing_labels_do_not_count():
    quality = quality_of_step(table("predicted", [0.0, 2, 10, 12]), table("reward", [5.0, 7, None, -3]))
    assert quality["correlation"] == pytest.approx(1)
