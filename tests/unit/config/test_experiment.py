"""The comparisons of an experiment and the paths of their files."""

from pathlib import Path

from conftest import TINY, merge
from prefloop.config.experiment import ByCheckpoint, ByTemperature, Comparison, Experiment, Primary, experiment_of
from prefloop.config.feedback_identity import feedback_identity
from prefloop.config.resolve import flags
from prefloop.config.validation import checked

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
    config = checked(merge(merge(TINY, {"policy": {"model": "some/model"}}), differences))
    return experiment_of(config, "results/tiny")


def lexicon(name: str) -> str:
    return feedback_identity({"kind": "function", "function": f"prefloop.feedback.lexicons:{name}"})


def test_comparison_files():
    assert (
        Comparison("initial", -1, 0, 1, "chosen").judgments == "initial/evaluation/temperature-1.0/against-chosen.jsonl"
    )
    comparison = Comparison("a", 7, 2, 0.25, "initial", checkpoint=3)
    assert comparison.policy == "a/seed-7/round-2/checkpoint-3"
    assert comparison.folder == "a/seed-7/round-2/checkpoint-3/evaluation/temperature-0.25"
    assert comparison._replace(temperature=0.00001).folder.endswith("/temperature-0.00001")
    assert comparison._replace(temperature=2).folder.endswith("/temperature-2.0")


def test_by_round_has_the_initial_policy_and_every_round():
    assert [(c.method, c.seed, c.round) for c in TWO.by_round()] == [
        ("initial", -1, 0),
        *[("a", 0, 1), ("a", 0, 2), ("a", 7, 1), ("a", 7, 2)],
        *[("b", 0, 1), ("b", 0, 2), ("b", 7, 1), ("b", 7, 2)],
    ]
    assert {(c.temperature, c.opponent, c.checkpoint) for c in TWO.by_round()} == {(0.7, "chosen", None)}


def test_no_method_is_compared_with_itself():
    met = {(c.method, c.opponent) for c in TWO.against_everybody()}
    assert met == {("a", "chosen"), ("b", "chosen"), ("a", "initial"), ("b", "initial"), ("a", "b")}
    assert {c.round for c in TWO.against_everybody()} == {2}


def test_temperatures_use_the_base_initial_and_last_policies():
    found = {(c.method, c.seed, c.round, c.temperature) for c in TWO.over_temperatures()}
    expected = {(name, -1, 0, t) for name in ("base", "initial") for t in (0.25, 0.7)}
    assert found == expected | {("a", seed, 2, t) for seed in (0, 7) for t in (0.25, 0.7)}


def test_curves_over_training_use_checkpoints_and_rounds():
    found = [(c.method, c.seed, c.round, c.checkpoint) for c in TWO.over_training()]
    runs = [("b", seed, number, step) for seed in (0, 7) for number in (1, 2) for step in (3, None)]
    assert found == [("initial", -1, 0, None), *runs]


def test_every_comparison_is_listed_once():
    comparisons = TWO.comparisons
    assert len(comparisons) == len(set(comparisons))
    lists = [TWO.by_round(), TWO.against_everybody(), TWO.over_temperatures(), TWO.over_training()]
    assert set(comparisons) == set().union(*lists)


def test_policies_that_no_figure_shows_are_not_evaluated():
    """Temperatures have a default but are only evaluated for their figure."""
    assert configured().over_temperatures() == []
    assert len(configured(figures=["temperatures"]).over_temperatures()) == 4 * 3


def test_baseline_evaluator_and_feedback_match_the_config():
    experiment = configured()
    assert experiment.baseline == "uniform"
    assert experiment.evaluator == lexicon("afinn")
    assert experiment.trained_by == (lexicon("vader"),) * 2
    assert configured(compare=["dota"], figures=["quality"], tables=[]).baseline == "dota"
    own = configured(methods={"dota": {"feedback": {"function": "prefloop.feedback.lexicons:afinn"}}})
    assert own.trained_by == (lexicon("afinn"), lexicon("vader"))


def test_tuples_become_the_same_flags_as_lists():
    assert flags({"a": (1, 2), "b": ()}) == flags({"a": [1, 2], "b": []}) == "--a 1 2"


def test_primary_contrast_matches_the_config():
    assert configured().primary == Primary("", "reward")
    assert configured(evaluation={"primary": {"method": "dota"}}).primary == Primary("dota", "reward")
    named = {"method": "dota", "measure": "win"}
    assert configured(evaluation={"primary": named}).primary == Primary("dota", "win")
