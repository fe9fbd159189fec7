"""Conversations: the prompt is everything before the last answer, and unusable rows are counted."""

import pytest

from prefloop.config.prompt_settings import Columns
from prefloop.core.errors import InputError
from prefloop.data.conversations import DIFFERENT_HISTORY, merge_roles
from prefloop.data.prompt_filters import drop_repeated
from prefloop.data.prompts import parse_rows


def system(text: str) -> dict:
    return {"role": "system", "content": text}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: object) -> dict:
    return {"role": "assistant", "content": text}


HISTORY = [user("Hi"), assistant("Hello"), user("Capital of France?")]
ROW = {
    "prompt": "Hi",
    "chosen": [*HISTORY, assistant("Paris")],
    "rejected": [*HISTORY, assistant("Rome")],
}


def parse(row: dict):
    (parsed,) = parse_rows([("file, line 1", row)], "columns", Columns(), None)
    return parsed


def content(row: dict) -> tuple:
    """Return messages, chosen and rejected of a row that is kept."""
    prompt = parse(row).prompt
    return prompt["messages"], prompt.get("chosen"), prompt.get("rejected")


@pytest.mark.parametrize("prompt", ["Hi", HISTORY, HISTORY[:1], "another", None])
def test_conversation_before_the_last_answer_is_the_prompt(prompt):
    """The prompt column does not matter."""
    assert content(ROW | {"prompt": prompt}) == (HISTORY, "Paris", "Rome")
    assert parse(ROW | {"prompt": prompt}).pair_drop_reason == ""


def test_system_messages_are_kept():
    """A system message of the prompt column is used only if the conversations have none."""
    brief = system("Be brief.")
    pair = {side: [brief, *ROW[side]] for side in ("chosen", "rejected")}
    assert content(pair) == ([brief, *HISTORY], "Paris", "Rome")
    assert content(ROW | {"prompt": [brief, user("Hi")]}) == ([brief, *HISTORY], "Paris", "Rome")
    assert content(pair | {"prompt": [system("Other."), user("Hi")]})[0][0] == brief


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_conversation_that_ends_with_the_user_is_dropped(side):
    """The user's words never become a response."""
    parsed = parse(ROW | {side: [*HISTORY, assistant("Paris"), user("Thanks!")]})
    assert (parsed.prompt, parsed.drop_reason) == (None, "ending with the user")


def test_transcript_that_ends_with_the_human_is_dropped():
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Thanks!"
    assert parse({"chosen": text, "rejected": text}).drop_reason == "ending with the user"


@pytest.mark.parametrize(
    "rejected",
    [
        [user("Hi"), assistant("Good day"), user("Capital of France?"), assistant("Rome")],
        [user("Hi"), assistant("Rome")],
        [*HISTORY, assistant("Rome"), user("Sure?"), assistant("Yes")],
    ],
)
def test_pair_that_differs_before_the_last_turn_is_counted(rejected):
    """The histories differ in content or length. A prompt column with which both begin is kept."""
    parsed = parse(ROW | {"rejected": rejected})
    assert parsed.prompt["messages"] == [user("Hi")]
    assert not {"chosen", "rejected"} & parsed.prompt.keys()
    assert parsed.pair_drop_reason == DIFFERENT_HISTORY == "that differ before the last turn"
    for prompt in (None, "Ho"):
        parsed = parse(ROW | {"rejected": rejected, "prompt": prompt})
        assert (parsed.prompt, parsed.drop_reason) == (None, "whose conversations differ before the last turn")


def test_different_transcripts_keep_the_prompt_of_the_chosen_one():
    chosen = "\n\nHuman: Hi\n\nAssistant: Hello"
    parsed = parse({"chosen": chosen, "rejected": chosen.replace("Hi", "Ho")})
    assert (parsed.prompt["messages"], parsed.pair_drop_reason) == ([user("Hi")], DIFFERENT_HISTORY)
    assert "chosen" not in parsed.prompt


def test_answers_without_a_prompt_continue_the_prompt_column():
    """Answers may be a message, a list with one message, or a longer continuation that begins with the assistant."""
    assert content({"prompt": HISTORY, "chosen": [assistant("Paris")], "rejected": assistant("Rome")}) == (
        HISTORY,
        "Paris",
        "Rome",
    )
    longer = [assistant("Hello"), HISTORY[2]]
    row = {"prompt": "Hi", "chosen": [*longer, assistant("Paris")], "rejected": [*longer, assistant("Rome")]}
    assert content(row) == (HISTORY, "Paris", "Rome")
    assert parse({"chosen": [assistant("Paris")], "rejected": [assistant("Rome")]}).drop_reason == (
        "without a user message"
    )


def test_one_conversation_is_a_prompt_with_a_chosen_response():
    assert content({"chosen": ROW["chosen"]}) == (HISTORY, "Paris", None)
    assert content({"prompt": "Hi", "chosen": ROW["chosen"], "rejected": None}) == (HISTORY, "Paris", None)


def test_two_answers_in_a_row_and_no_question_are_dropped():
    twice = [user("Hi"), assistant("a"), assistant("b")]
    assert parse({"chosen": twice, "rejected": twice}).drop_reason == "with two answers in a row"
    for row in ({"chosen": [system("Be brief."), assistant("a")]}, {"prompt": [{"role": "tool", "content": "1"}]}):
        assert parse(row).drop_reason == "without a user message"


def test_text_parts_are_joined():
    """This holds for prompts and responses."""
    parts = [{"type": "text", "text": "Name a "}, {"type": "text", "text": "prime."}]
    row = {"prompt": [{"role": "user", "content": parts}], "chosen": [assistant(parts)], "rejected": "8"}
    assert content(row) == ([user("Name a prime.")], "Name a prime.", "8")
    assert content({"prompt": [user(["Name ", {"text": "one."}])]})[0] == [user("Name one.")]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]},
        {"role": "user", "content": 3},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "weather"}]},
    ],
)
def test_content_other_than_text_has_its_own_drop_reason(message):
    """Covers images, image links, numbers and tool calls."""
    parsed = parse({"prompt": [user("Hi"), message, user("Why?")]})
    assert (parsed.prompt, parsed.drop_reason) == (None, "with images or other content that is not text")


def test_reasons_are_counted_separately():
    rows = [
        ROW,
        ROW | {"rejected": [user("Ho"), assistant("Rome")]},
        ROW | {"chosen": HISTORY},
        {"prompt": [user([{"type": "image"}])]},
    ]
    kept, dropped = drop_repeated(parse_rows((("here", row) for row in rows), "columns", Columns(), None))
    assert len(kept) == 1
    assert dropped == {
        "repeated": 0,
        "whose conversations differ before the last turn": 1,
        "ending with the user": 1,
        "with images or other content that is not text": 1,
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Say \ud800 aloud"}, r"file, line 1: half a surrogate pair, '\\ud800'"),
        ({"prompt": "Hi", "chosen": "\udfff", "rejected": "b"}, "half a surrogate pair"),
        ({"prompt": "Hi", "meta": {"score": float("nan")}}, "file, line 1: a value that JSON does not have"),
        ({"prompt": "Hi", "meta": {1, 2}}, "file, line 1: a value that JSON does not have"),
        ({"prompt": "Hi", "meta": 10**5000}, "file, line 1: a value that JSON does not have"),
        ({"prompt": [{"role": "user", "content": "\ud800"}], "prompt_id": "x"}, "half a surrogate pair"),
    ],
)
def test_values_that_json_cannot_contain_raise(row, message):
    """The error is one line with file and line."""
    with pytest.raises(InputError, match=message) as raised:
        parse(row)
    assert "\n" not in str(raised.value)


def test_deep_nesting_raises():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for row in ({"prompt": "Hi", "meta": nested}, {"prompt": nested}, {"prompt": "Hi", "chosen": nested}):
        with pytest.raises(InputError, match="file, line 1: "):
            parse(row)


@pytest.mark.parametrize("value", [[3], [None], ["Hi"], [[]], [{}], {}, {"role": "user"}, 3, True])
@pytest.mark.parametrize("column", ["prompt", "chosen"])
def test_values_of_any_type_raise_or_are_dropped(column, value):
    try:
        assert parse({"prompt": "Hi", "chosen": "a", "rejected": "b", column: value}).drop_reason
    except InputError as error:
        assert str(error).startswith("file, line 1: ")


def test_sharegpt_turns_in_other_columns_name_the_format():
    with pytest.raises(InputError, match="is not a message: .*from and value are read with format sharegpt"):
        parse({"prompt": [{"from": "human", "value": "Hi"}]})


@pytest.mark.parametrize(
    ("messages", "merged"),
    [
        ([system("S"), user("a")], [user("S\n\na")]),
        ([system("S"), system("T"), user("a"), user("b")], [user("S\n\nT\n\na\n\nb")]),
        ([user("a"), assistant("b"), assistant("c"), user("d")], [user("a"), assistant("b\n\nc"), user("d")]),
        ([user("a"), system("S"), user("b")], [user("S\n\na\n\nb")]),
        (HISTORY, HISTORY),
    ],
)
def test_consecutive_roles_are_merged(messages, merged):
    assert merge_roles(messages) == merged


def test_transcript_may_lack_the_first_empty_line():
    text = "Human: Hi\n\nAssistant: Hello\n\nHuman: Capital of France?\n\nAssistant: "
    assert content({"chosen": f"{text}Paris", "rejected": f"\n\n{text}Rome"}) == (HISTORY, "Paris", "Rome")


def test_transcript_with_text_before_the_first_turn_is_counted():
    text = "You are a pirate.\n\nHuman: Hi\n\nAssistant: "
    assert parse({"chosen": f"{text}Arr", "rejected": f"{text}Hello"}).drop_reason == "with text before the first turn"
