"""The table of judge answers has every raw answer and its order of responses."""

import pandas as pd

from made_up import drawn, experiment_in
from prefloop.core.jsonl import write_rows

JUDGED = {"prompt_id": "p", "cluster": 0, "response_id": 4, "reward": 0.5, "beats": [], "judged": [[7, 1.0, None]]}


def test_every_answer_is_a_row(tmp_path):
    """A pair of training responses and a comparison have two answers each. Rows without a judge have none."""
    experiment = experiment_in(tmp_path)
    ((_, step),) = experiment.step_folders()
    without = {
        "prompt_id": "p",
        "cluster": 0,
        "response_id": 7,
        "reward": 0.5,
        "beats": [],
        "judged": [],
        "answers": [],
    }
    write_rows(step / "rewards.jsonl", [JUDGED | {"answers": [[["A", ""], ["{a & b} 100 %\nB_", "unclear"]]]}, without])
    initial, last = experiment.by_round()
    write_rows(tmp_path / initial.judgments, [{"prompt_id": "q", "outcome": "tie"}])
    write_rows(tmp_path / last.judgments, [{"prompt_id": "q", "outcome": "win", "answers": [["A", ""], ["", "cut"]]}])
    data, _ = drawn("tabulate_judge_answers", experiment)
    shown = ["stage", "round", "step", "prompt_id", "first", "second", "problem", "answer"]
    expected = [
        ("reward", 1, 1, "p", "4", "7", "", "A"),
        ("reward", 1, 1, "p", "7", "4", "unclear", "{a & b} 100 %\nB_"),
        ("compare_samples", 1, 0, "q", "ours", "opponent", "", "A"),
        ("compare_samples", 1, 0, "q", "opponent", "ours", "cut", ""),
    ]
    assert data[shown].fillna("").astype(str).to_numpy().tolist() == [list(map(str, row)) for row in expected]
    assert set(data["method"]) == {"only"}
    text = (tmp_path / "tables/judge_answers.tex").read_text()
    assert r"\{a \& b\} 100 \% B\_" in text and text.count(r" \\") == 1 + 4


def test_table_without_answers_is_empty(tmp_path):
    experiment = experiment_in(tmp_path)
    ((_, step),) = experiment.step_folders()
    write_rows(step / "rewards.jsonl", [{"prompt_id": "p", "response_id": 4, "reward": 0.5}])
    for comparison in experiment.by_round():
        write_rows(tmp_path / comparison.judgments, [{"prompt_id": "q", "outcome": "tie"}])
    data, _ = drawn("tabulate_judge_answers", experiment)
    assert data.empty and isinstance(data, pd.DataFrame)
