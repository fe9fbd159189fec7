"""Methods that derive from others, and their labels."""

import pytest

from conftest import TINY, merge
from prefloop.config.experiment import experiment_of
from prefloop.config.resolve import of_method
from prefloop.config.validation import checked
from prefloop.core.errors import InputError

VALID = merge(TINY, {"policy": {"model": "some/model"}})


def with_methods(compare, **methods):
    return checked(merge(VALID, {"compare": compare, "methods": methods}))


def test_like_takes_the_settings_of_a_chain():
    """c changes a key of b, and b derives from uniform. A single loss replaces a sum of losses."""
    config = with_methods(
        ["uniform", "b", "c"],
        c={"like": "b", "train": {"beta": 0.3, "loss": "ipo"}},
        b={"like": "uniform", "train": {"beta": 0.2, "loss": {"dpo": 1.0, "nll": 0.5}}, "label": "B"},
    )
    uniform, b, c = (of_method(config, name) for name in config["compare"])
    assert (uniform["train"]["beta"], b["train"]["beta"], c["train"]["beta"]) == (0.1, 0.2, 0.3)
    assert (b["train"]["loss"], c["train"]["loss"]) == ({"dpo": 1.0, "nll": 0.5}, "ipo")
    assert uniform["bandit"] == b["bandit"] == c["bandit"] != config["bandit"]
    assert "like" not in c and "label" not in c
    assert experiment_of(config, "results/x").labels == ("uniform", "B", "c"), "a label is not inherited"


def test_experiment_without_labels_has_none():
    """Otherwise figures of experiments without labels would be drawn again."""
    assert experiment_of(checked(VALID), "results/x").labels == ()


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"a": {"like": "dotta"}}, "methods.a.like: 'dotta' is not one of dota, uniform, a; did you mean dota"),
        ({"a": {"like": "a"}}, "methods.a.like: a cycle, a -> a; remove one"),
        ({"a": {"like": "b"}, "b": {"like": "c"}, "c": {"like": "b"}}, "methods.b.like: a cycle, b -> c -> b"),
        ({"a": {"like": 3}}, "methods.a.like: 3, expected text or null"),
        ({"a": {"label": ""}}, "methods.a.label: '', expected one line of at most 80 characters"),
        ({"a": {"label": "-x"}}, "methods.a.label: '-x', expected one line"),
        ({"a": {"label": "two\nlines"}}, r"methods.a.label: .*, expected one line"),
        ({"a": {"label": "x" * 81}}, "methods.a.label: .*, expected one line"),
        ({"a": {"label": "initial"}}, "methods.a.label: 'initial', expected .* other than base, initial"),
        ({"dota": {"label": "uniform"}}, "methods: two compared methods are shown as 'uniform'"),
        ({"a": {"like": "dota", "rounds": 2}}, "methods.a.rounds: unknown key"),
    ],
)
def test_invalid_entries_raise_with_one_line(methods, message):
    with pytest.raises(InputError, match=f"^config: {message}") as error:
        checked(merge(VALID, {"methods": methods}))
    assert len(str(error.value).splitlines()) == 1
