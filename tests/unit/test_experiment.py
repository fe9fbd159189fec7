"""What an experiment compares, and where each contest's files lie."""

from pathlib import Path

from conftest import ROOT, TINY, merge
from prefloop.checks import checked, load_schema
from prefloop.config import flags, in_words
from prefloop.experiment import ByCheckpoint, ByTemperature, Contest, Experiment, experiment_of

SCHEMA = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
TWO = Experiment(
    root=Path("results/x"),
    methods=("a", "b"),
    seeds=(0, 7),
    rounds=2,
    steps=1,
    temperature=0.7,
    opponents=("chosen", "initial", "b"),
    fine_tuned=True,
    by_temperature=ByTemperature((0.25, 0.7), ("a",)),
    by_checkpoint=ByCheckpoint((0.7,), ("b",), (3,)),
)


def configured(**differences) -> Experiment:
    config = checked(merge(merge(TINY, {"policy": {"model": "some/model"}}), differences), SCHEMA)
    return experiment_of(config, "results/tiny")


def test_a_contest_s_files():
    assert Contest("initial", -1, 0, 1, "chosen").verdicts == "initial/evaluation/temperature-1.0/against-chosen.jsonl"
    contest = Contest("a", 7, 2, 0.25, "initial", checkpoint=3)
    assert contest.policy == "a/seed-7/round-2/checkpoint-3"
    assert contest.folder == "a/seed-7/round-2/checkpoint-3/evaluation/temperature-0.25"


def test_rounds_stand_beside_the_initial_policy():
    assert [(c.method, c.seed, c.round) for c in TWO.by_round()] == [
        ("initial", -1, 0),
        *[("a", 0, 1), ("a", 0, 2), ("a", 7, 1), ("a", 7, 2)],
        *[("b", 0, 1), ("b", 0, 2), ("b", 7, 1), ("b", 7, 2)],
    ]
    assert {(c.temperature, c.opponent, c.checkpoint) for c in TWO.by_round()} == {(0.7, "chosen", None)}


def test_no_method_meets_itself():
    met = {(c.method, c.opponent) for c in TWO.against_everybody()}
    assert met == {("a", "chosen"), ("b", "chosen"), ("a", "initial"), ("b", "initial"), ("a", "b")}
    assert {c.round for c in TWO.against_everybody()} == {2}


def test_temperatures_are_of_base_fine_tuned_and_last_rounds():
    found = {(c.method, c.seed, c.round, c.temperature) for c in TWO.over_temperatures()}
    expected = {(name, -1, 0, t) for name in ("base", "initial") for t in (0.25, 0.7)}
    assert found == expected | {("a", seed, 2, t) for seed in (0, 7) for t in (0.25, 0.7)}


def test_training_is_followed_through_checkpoints_and_rounds():
    found = [(c.method, c.seed, c.round, c.checkpoint) for c in TWO.over_training()]
    runs = [("b", seed, number, step) for seed in (0, 7) for number in (1, 2) for step in (3, None)]
    assert found == [("initial", -1, 0, None), *runs]


def test_every_contest_is_listed_once():
    contests = TWO.contests
    assert len(contests) == len(set(contests))
    lists = [TWO.by_round(), TWO.against_everybody(), TWO.over_temperatures(), TWO.over_training()]
    assert set(contests) == set().union(*lists)


def test_what_no_figure_shows_is_not_evaluated():
    """Temperatures have a default; without their figure they cost nothing."""
    assert configured().over_temperatures() == []
    assert len(configured(figures=["temperatures"]).over_temperatures()) == 4 * 3


def test_the_config_names_baseline_evaluator_and_feedback():
    experiment = configured()
    assert experiment.baseline == "uniform"
    assert experiment.evaluator == "the function prefloop.lexicons:afinn"
    assert experiment.trained_by == ("the function prefloop.lexicons:vader",) * 2
    assert configured(compare=["dota"], figures=["quality"], tables=[]).baseline == "dota"
    own = configured(methods={"dota": {"feedback": {"function": "prefloop.lexicons:afinn"}}})
    assert own.trained_by == ("the function prefloop.lexicons:afinn", "the function prefloop.lexicons:vader")


def test_feedback_in_words_leaves_checksums_out():
    judge = {"model": None, "template": "judge.txt"}
    words = {"kind": "reward_model", "model": "pypi:x==1/y#sha256=abc", "judge": judge}
    assert in_words(words) == "the reward model pypi:x==1/y"
    assert in_words(words | {"kind": "judge", "model": "qwen"}) == "the judge qwen with judge.txt"
    assert in_words(words | {"kind": "dataset"}) == "the data set's own preference"


def test_tuples_become_flags_as_lists_do():
    assert flags({"a": (1, 2), "b": ()}) == flags({"a": [1, 2], "b": []}) == "--a 1 2"
