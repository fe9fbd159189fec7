"""Tables read from an experiment's files: annotated prompts, families and judgments."""

import numpy as np
import pytest

from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.head_quality import head_quality
from prefloop.evaluation.random_effects import crossed_mean
from prefloop.evaluation.results import annotated, interval_by_round, judgments


def test_prompts_of_a_pool_without_labels_are_not_annotated(tmp_path):
    experiment = Experiment(tmp_path, ("chooses", "takes_all"), (0,), rounds=1, steps=1, acquiring=("chooses",))
    for _, folder in experiment.step_folders():
        write_rows(folder / "prompts.jsonl", [{"prompt_id": name, "cluster": 3} for name in "abc"])
    step = tmp_path / "chooses/seed-0/round-1/step-1"
    rows = [{"prompt_id": "b", "response_id": number, "predicted": None, "reward": number} for number in (0, 2)]
    for file in ("acquired.jsonl", "rewards.jsonl"):
        write_rows(step / file, rows)
    table = annotated(experiment)
    assert table.groupby("method")["prompt_id"].agg(list).to_dict() == {"chooses": ["b"], "takes_all": ["a", "b", "c"]}
    quality = head_quality(experiment)
    assert quality[["method", "prompts", "responses", "gap"]].to_numpy().tolist() == [["chooses", 1, 2, 2.0]]


def test_prompts_of_a_family_are_one_cluster(tmp_path):
    """Intervals are clustered by `meta.family` of the eval prompts. A prompt without a family is its own family."""
    experiment = Experiment(tmp_path, ("only",), (0, 1), rounds=1, steps=1)
    metas = [{"family": "poem"}, {"family": "poem"}, {"family": 3}, {"family": 3}, {"topic": "x"}, None]
    write_rows(tmp_path / "prompts/eval.jsonl", ({"prompt_id": f"p{i}", "meta": meta} for i, meta in enumerate(metas)))
    rewards = np.random.default_rng(0).normal(0, 1, (3, 6))
    for comparison, values in zip(experiment.by_round(), rewards, strict=True):
        rows = ({"prompt_id": f"p{i}", "outcome": "tie", "reward": value} for i, value in enumerate(values))
        write_rows(tmp_path / comparison.judgments, rows)
    table = judgments(experiment)
    families = ["family poem", "family poem", "family 3", "family 3", "prompt p4", "prompt p5"]
    assert table.drop_duplicates("prompt_id")["family"].tolist() == families
    found = interval_by_round(table, "reward").set_index("round").loc[1, ["mean", "low", "high"]]
    assert tuple(found) == crossed_mean(rewards[1:], np.array(families)).interval()
    assert tuple(found) != crossed_mean(rewards[1:]).interval()


def test_evaluated_prompt_without_a_row_raises(tmp_path):
    experiment = Experiment(tmp_path, ("only",), (0,), rounds=1, steps=1)
    write_rows(tmp_path / "prompts/eval.jsonl", [{"prompt_id": "p0"}])
    for comparison in experiment.by_round():
        write_rows(tmp_path / comparison.judgments, [{"prompt_id": "p7", "outcome": "tie"}])
    with pytest.raises(InputError, match=r"eval.jsonl: evaluated prompt p7 is missing; .*prepare_prompts"):
        judgments(experiment)
