"""Error messages are one line each, and errors in settings name the config key."""

import pytest

from prefloop.core.errors import InputError, SettingError, section, short_repr
from prefloop.core.files import parse_json
from prefloop.core.registry import lookup


def test_section_is_prepended_to_the_setting():
    with pytest.raises(InputError, match="^train.loss: 'dppo' is not one of dpo$") as error, section("train"):
        lookup({"dpo": 1}, "dppo", "loss")
    assert not isinstance(error.value, SettingError), "another section would be prepended"


def test_section_does_not_change_other_errors():
    with pytest.raises(InputError, match="^pairs.jsonl: no such file$"), section("train"):
        raise InputError("pairs.jsonl: no such file")


def test_messages_are_one_line_each():
    """This holds for user text with line breaks, unprintable characters or thousands of characters."""
    assert str(InputError("a\nb\u2028c\ud800 é")) == "a\\nb\\u2028c\\ud800 é"
    assert str(InputError("one", "two\n")) == "one\ntwo\\n"
    long = str(InputError("prompts.source: " + "x" * 9000 + "; name a file"))
    assert len(long) < 1300 and long.startswith("prompts.source: x") and long.endswith("; name a file")


def test_short_repr_is_short_for_any_value():
    assert short_repr("a\nb") == "'a\\nb'"
    assert len(short_repr(["x"] * 999)) == 80
    assert short_repr(10**5000) == "a value of type int", "Python refuses to convert it to text"


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "9" * 5000, "{", ""])
def test_invalid_json_raises_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)
