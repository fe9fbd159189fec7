"""Errors of settings name the key in the config."""

import pytest

from prefloop.core.errors import InputError, SettingError, section, short_repr
from prefloop.core.files import parse_json
from prefloop.core.registry import lookup


def test_section_is_put_in_front_of_a_setting():
    with pytest.raises(InputError, match="^train.loss: 'dppo' is not one of dpo$") as error, section("train"):
        lookup({"dpo": 1}, "dppo", "loss")
    assert not isinstance(error.value, SettingError), "a second section would be put in front"


def test_section_leaves_other_errors_alone():
    with pytest.raises(InputError, match="^pairs.jsonl: no such file$"), section("train"):
        raise InputError("pairs.jsonl: no such file")


def test_messages_are_one_line_each():
    """Whatever text of the user is in them: lines, characters that no terminal prints, or thousands of characters."""
    assert str(InputError("a\nb\u2028c\ud800 é")) == "a\\nb\\u2028c\\ud800 é"
    assert str(InputError("one", "two\n")) == "one\ntwo\\n"
    long = str(InputError("prompts.source: " + "x" * 9000 + "; name a file"))
    assert len(long) < 1300 and long.startswith("prompts.source: x") and long.endswith("; name a file")


def test_short_repr_is_short_for_any_value():
    assert short_repr("a\nb") == "'a\\nb'"
    assert len(short_repr(["x"] * 999)) == 80
    assert short_repr(10**5000) == "a value of type int", "Python refuses to print it"


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "9" * 5000, "{", ""])
def test_text_that_is_no_json_raises_value_error(text):
    """Case 7."""
    with pytest.raises(ValueError):
        parse_json(text)
