"""Named evaluators: their names, their measures, and the errors for invalid ones."""

from dataclasses import asdict, replace

import pytest

from conftest import TINY, merge
from prefloop.config.consistency import doubts
from prefloop.config.evaluator_measures import is_rate, reward_measure, split_measure, win_measure
from prefloop.config.experiment import Comparison, experiment_of
from prefloop.config.feedback_identity import feedback_identity
from prefloop.config.resolve import asks_judge, flags, model_sources, target_measure, trained_here
from prefloop.config.validation import checked
from prefloop.core.errors import InputError

VALID = merge(TINY, {"policy": {"model": "some/model"}})
FUNCTION = {"function": "prefloop.feedback.lexicons:afinn"}
JUDGE = {"kind": "judge", "model": "owner/judge"}
MINE = {"reward_models": {"mine": {"base": "owner/base", "source": "packaged"}}}
TRAINED = {"kind": "reward_model", "model": "trained:mine"}


def named(evaluators: dict, **evaluation) -> dict:
    """Return a config with these named evaluators and further evaluation settings."""
    return merge(VALID, {"evaluation": {"evaluators": evaluators} | evaluation})


def test_measures_start_with_the_name_of_their_evaluator():
    assert split_measure(reward_measure("a_b")) == ("a_b", "reward")
    assert split_measure(win_measure("a_b")) == ("a_b", "win")
    for own in ("reward", "feedback", "win", "n_tokens"):
        assert split_measure(own) == ("", own)
    assert is_rate("win") and is_rate("polite_win") and not is_rate("polite_reward")


@pytest.mark.parametrize(
    "name", ["reward", "win", "auto", "main", "evaluator", "my_win", "a_reward", "_a", "a-b", "a.b"]
)
def test_invalid_name_raises(name):
    with pytest.raises(InputError, match=f"evaluation.evaluators: '{name}', expected a name of letters, digits and _"):
        checked(named({name: FUNCTION}))


def test_number_as_name_raises():
    with pytest.raises(InputError, match="evaluation.evaluators: 3, expected a name of letters"):
        checked(named({3: FUNCTION}))


@pytest.mark.parametrize("name", ["win_rate", "rewarding", "winning", "a_rewards", "2nd"])
def test_similar_names_are_valid(name):
    assert list(checked(named({name: FUNCTION}))["evaluation"]["evaluators"]) == [name]


@pytest.mark.parametrize(
    ("evaluator", "message"),
    [
        ({"function": None}, "evaluation.evaluators.x: kind function needs evaluation.evaluators.x.function"),
        (FUNCTION | {"kind": "dataset"}, "evaluation.evaluators.x: the data set has no preference between new samples"),
        (
            FUNCTION | {"noise": {"kind": "bradley_terry"}},
            "evaluation.evaluators.x.noise.kind: evaluation has no noise",
        ),
        (JUDGE | {"judge": {"pairs": "random_k"}}, "evaluation.evaluators.x.judge.pairs: random_k, but evaluation has"),
        (TRAINED, "evaluation.evaluators.x.model: trained:mine, but reward_models has no such name; known: none"),
        ({"functions": "a:b"}, "evaluation.evaluators.x.functions: unknown key; did you mean function"),
        ({"function": "nowhere_at_all:f"}, "evaluation.evaluators.x.function: no module nowhere_at_all"),
    ],
)
def test_named_evaluators_are_checked_like_the_evaluator(evaluator, message):
    with pytest.raises(InputError) as error:
        checked(named({"fine": FUNCTION, "x": evaluator}))
    assert message in str(error.value)


def test_named_lexicon_warns_like_the_evaluator():
    other = {"feedback": {"kind": "reward_model", "model": "my/rm"}}
    config = merge(named({"words": FUNCTION}, evaluator={"kind": "reward_model", "model": "another/rm"}), other)
    assert [line.partition(": ")[0] for line in doubts(checked(config))] == ["evaluation.evaluators.words"]


def test_only_models_of_named_evaluators_are_fetched_and_trained():
    """A declared reward model that no setting uses is not trained."""
    without = checked(merge(VALID, MINE))
    assert not trained_here(without) and set(model_sources(without).values()) == {"some/model"}
    config = checked(merge(named({"small": TRAINED, "strict": JUDGE}), MINE))
    assert trained_here(config) == ["mine"] and asks_judge(config) and not asks_judge(without)
    assert set(model_sources(config).values()) == {"some/model", "owner/base", "owner/judge"}


def test_named_evaluators_have_all_defaults():
    evaluators = checked(named({"words": FUNCTION}))["evaluation"]["evaluators"]
    assert evaluators["words"].keys() == checked(VALID)["feedback"].keys()
    assert checked(VALID)["evaluation"]["evaluators"] == {}


@pytest.mark.parametrize(
    ("word", "measure"),
    [
        ("auto", "reward"),
        ("words", "words_reward"),
        ("words_win", "words_win"),
        ("words_reward", "words_reward"),
        ("strict", "strict_win"),
        ("feedback", "feedback"),
    ],
)
def test_measure_may_name_an_evaluator(word, measure):
    """The name of an evaluator means its reward, or its win rate if it is a judge."""
    settings = {"target": {"measure": word}, "primary": {"method": "dota", "measure": word}}
    settings["validation"] = {"fraction": 0.3, "measure": word}
    config = checked(named({"words": FUNCTION, "strict": JUDGE}, **settings))
    assert target_measure(config) == target_measure(config, "primary") == measure
    assert target_measure(config, "validation") == measure
    assert experiment_of(config, "results/x").primary.measure == measure


@pytest.mark.parametrize(
    ("section", "word", "message"),
    [
        (
            "target",
            "wrods",
            "measure: 'wrods' is not one of auto, feedback, reward, win, words, .*; did you mean words?",
        ),
        (
            "primary",
            "strict_rewards",
            "evaluation.primary.measure: 'strict_rewards' is not one of .*did you mean strict_rew",
        ),
        (
            "primary",
            "strict_reward",
            "evaluation.primary.measure: strict_reward is not available, because kind judge gives no rewards",
        ),
        ("validation", "word", "evaluation.validation.measure: 'word' is not one of .*; did you mean words?"),
        (
            "validation",
            "strict_reward",
            "evaluation.validation.measure: strict_reward is not available, because kind judge gives no rewards",
        ),
        (
            "target",
            "strict_reward",
            "evaluation.target.measure: strict_reward is not available, because kind judge gives no rewards; set",
        ),
    ],
)
def test_unknown_measure_raises(section, word, message):
    more = {"primary": {"method": "dota"}, "validation": {"fraction": 0.3}}
    settings = {section: {"measure": word} | more.get(section, {})}
    config = named({"words": FUNCTION, "strict": JUDGE}, **settings) | {"tables": ["cost_to_reach"]}
    with pytest.raises(InputError, match=message):
        checked(config)


def test_experiment_knows_names_and_identities():
    experiment = experiment_of(checked(named({"words": FUNCTION})), "results/x")
    assert experiment.evaluators == ("words",)
    assert experiment.evaluated_by == (feedback_identity(FUNCTION | {"kind": "function"}),)
    without = experiment_of(checked(VALID), "results/x")
    assert flags(asdict(without)) == flags(asdict(replace(experiment, evaluators=(), evaluated_by=())))
    assert "--evaluators" not in flags(asdict(without)) and "--evaluated-by" not in flags(asdict(without))


def test_files_of_a_named_evaluator_are_next_to_the_samples():
    comparison = Comparison("initial", -1, 0, 1, "chosen")
    assert comparison.judged_by("words") == "initial/evaluation/temperature-1.0/words/against-chosen.jsonl"
