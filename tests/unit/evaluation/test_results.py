"""Tables of an experiment's files where methods choose which responses get a label."""

from prefloop.config.experiment import Experiment
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.head_quality import head_quality
from prefloop.evaluation.results import annotated


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
