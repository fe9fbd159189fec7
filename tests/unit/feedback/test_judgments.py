"""Judgments average both orders, and reports count outcomes and biases."""

import pytest

from conftest import ROOT
from prefloop.core.costs import Usage
from prefloop.core.errors import InputError
from prefloop.feedback.answers import PROBLEMS, Answer
from prefloop.feedback.judgments import (
    Judgment,
    Question,
    as_text,
    invalid_warning,
    judge_pairs,
    judge_report,
    rates,
    read_template,
    render,
)

TEMPLATES = sorted((ROOT / "workflow/prompts/judge").glob("*.txt"))


@pytest.mark.parametrize(
    ("first", "second", "margin", "outcome", "preference", "flipped"),
    [
        (1.0, 1.0, 0.0, "A", 1.0, False),
        (0.0, 0.0, 0.0, "B", 0.0, False),
        (1.0, 0.0, 0.0, "tie", 0.5, True),  # the response shown first wins both times
        (0.0, 1.0, 0.0, "tie", 0.5, True),  # the response shown second wins both times
        (0.5, 0.5, 0.0, "tie", 0.5, False),
        (1.0, 0.5, 0.0, "A", 0.75, False),  # one order undecided
        (0.75, 0.375, 0.0, "A", 0.5625, True),
        (0.75, 0.375, 0.0625, "tie", 0.5625, True),  # margins are inclusive
        (0.75, 0.375, 0.05, "A", 0.5625, True),
        (0.53125, 0.25, 0.0625, "B", 0.390625, False),  # 0.53 is within the margin
        (None, 1.0, 0.0, "invalid", None, False),
        (1.0, None, 0.0, "invalid", None, False),
        (None, None, 0.5, "invalid", None, False),
    ],
)
def test_judgments_average_both_orders(first, second, margin, outcome, preference, flipped):
    judgment = Judgment(first, second, margin)
    assert (judgment.outcome, judgment.preference, judgment.flipped) == (outcome, preference, flipped)


def test_render_keeps_braces_in_texts():
    question = Question("{response_a} {x}", "{response_b}", "{conversation}{}")
    assert render("<{conversation}|{response_a}|{response_b}>", question) == (
        "<{response_a} {x}|{response_b}|{conversation}{}>"
    )


def test_long_conversations_name_the_roles():
    user, assistant = {"role": "user", "content": "{x}"}, {"role": "assistant", "content": "\\1"}
    assert as_text([user]) == "{x}"
    assert (
        as_text([user, assistant, {"role": "user", "content": "why?"}]) == "User: {x}\n\nAssistant: \\1\n\nUser: why?"
    )


def test_template_without_placeholder_raises(tmp_path):
    path = tmp_path / "mine.txt"
    with pytest.raises(InputError, match="mine.txt: no such file"):
        read_template(path)
    path.write_text("{conversation} {response_A}")
    with pytest.raises(InputError, match=r"mine.txt: a judge's template must contain \{response_a\}, \{response_b\}$"):
        read_template(path)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_packaged_templates_are_valid(path):
    text = render(read_template(path), Question("why?", "because", "who knows"))
    assert text.index("why?") < text.index("because") < text.index("who knows")
    assert "{" not in text
    assert "A or B" in text and "tie" in text


def test_report_by_hand():
    judgments = [
        Judgment(1.0, 1.0),  # A, longer; it won in both positions
        Judgment(0.0, 0.0),  # B, shorter; it won in both positions
        Judgment(1.0, 0.0),  # tie, flipped; the response shown first won both times
        Judgment(None, 1.0, answers=(Answer(None, "", "cut"), Answer(0.0, "B"))),  # invalid; one valid answer
        Judgment(1.0, 0.5),  # A, equal lengths; the only decisive answer is for the response shown first
        Judgment(0.5, 0.5),  # tie
    ]
    assert judge_report(judgments, [9, 9, 1, 1, 5, 1], [1, 1, 2, 2, 5, 2]) == {
        "pairs": 6,
        "outcomes": {"A": 2, "B": 1, "tie": 2, "invalid": 1},
        "invalid_answers": dict.fromkeys(PROBLEMS, 0) | {"cut": 1},
        "position_flip_rate": [1, 5],
        "first_position_share": [5, 8],
        "longer_won": [1, 2],
    }
    nothing = {"invalid_answers": dict.fromkeys(PROBLEMS, 0)}
    nothing |= {"position_flip_rate": [0, 0], "first_position_share": [0, 0], "longer_won": [0, 0]}
    assert (
        judge_report([], [], []) == {"pairs": 0, "outcomes": dict.fromkeys(["A", "B", "tie", "invalid"], 0)} | nothing
    )
    assert judge_report([Judgment(None, None)], [1], [2]).items() >= nothing.items()


def test_rates_divide_counts():
    outcomes = {"A": 2, "B": 1, "tie": 2, "invalid": 1}
    report = {"pairs": 6, "outcomes": outcomes, "position_flip_rate": [1, 5], "longer_won": [0, 0], "asked": 7}
    expected = {"pairs": 6, "position_flip_rate": 0.2, "longer_won": None, "asked": 7} | outcomes
    assert rates(report) == expected
    assert rates(report | {"invalid_answers": {"cut": 2}}) == expected | {"invalid_cut": 2}


def answered(*answers: Answer) -> Judgment:
    """Return a judgment with these answers in both orders; valid answers prefer the response shown first."""
    return Judgment(*(answer.probability for answer in answers), answers=answers)


def test_mostly_invalid_judgments_give_a_warning():
    """The warning counts the reasons and, for the most frequent one, shows the first answer and the remedy."""
    cut, unclear, valid = Answer(None, "<think>Let me", "cut"), Answer(None, "Both.", "unclear"), Answer(1.0, "A")
    judgments = [answered(unclear, valid), answered(cut, cut), answered(valid, valid)]
    warning = invalid_warning(judgments)
    assert warning.startswith("2 of 3 judgments are invalid (answers: 2 cut, 1 unclear); the first answer is '<think>")
    assert "raise" in warning and "judge.max_tokens" in warning
    assert invalid_warning([*judgments, answered(valid, valid)]) == "", "two of four is not a majority"
    assert invalid_warning([]) == ""
    long = invalid_warning([answered(Answer(None, "x" * 999 + "\nend", "unclear"), valid)])
    assert "end'" in long and "\n" not in long and len(long) < 500


class FirstLetterJudge:
    """Prefers the response that comes first in the alphabet; questions with "?" get an empty answer."""

    batch_size, tie_margin = None, 0.25

    def __init__(self):
        self.usage, self.questions = Usage(), []

    def compare(self, questions):
        self.questions += questions
        return [
            Answer(None, "", "empty") if "?" in q[1:] else Answer(0.9 if q.response_a < q.response_b else 0.3)
            for q in questions
        ]


def test_judge_pairs_asks_both_orders_once():
    judge, prompt = FirstLetterJudge(), [{"role": "user", "content": "who"}]
    judgments = judge_pairs(judge, [prompt] * 4, ["a", "c", "a", "x"], ["b", "?", "b", "x"])
    assert judgments[0] == judgments[2] == Judgment(0.9, 0.7, 0.25)
    assert judgments[1] == Judgment(None, None, 0.25)
    assert judgments[3] == Judgment(0.3, 0.7, 0.25) and judgments[3].outcome == "tie"
    assert judge.questions == [("who", *order) for order in ("ab", "ba", "c?", "?c", "xx")]
