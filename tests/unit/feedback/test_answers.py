"""Written answers of judges: a verdict if the answer is unambiguous, otherwise the reason why it is invalid."""

import time

import pytest

from prefloop.feedback.answers import PROBLEMS, Answer, parse_answer

FIRST = [
    *["A", "a", " A\n", "A.", "**A**", "`A`", '"A"', "(A)", "[[A]]", "Answer: A", "Option A", "Response A", "model a"],
    "<think>B is short. Is A better? Yes.</think>\n\nA",
    "The opening tag was in the prompt.</think>\nA",
    "Final answer: A",
    '{"winner": "A"}',
    '{"winner": "A", "scores": {"A": 5, "B": 3}}',
    '```json\n{"preferred": "A", "why": {"A": "kind", "B": "rude"}}\n```',
    '{"verdict": {"winner": "A"}}',
    '{"winner": "A", "scores": [{"A": 5}, {"B": 3}]}',
    'Here it is:\n```json\n{"winner": "A", "scores": {"A": 5}}\n```\nThat is all.',
    'My verdict:\n```json\n{"reason": "B is rude", "Final Verdict": "Response A"}\n```',
    "Response B is vague, Response A is precise.\n\n[[A]]",
    "[[A>>B]]",
    "The result is \\boxed{A}",
    "Both are fine.\n<answer>A</answer>",
    "**Verdict:** Response A",
    "The better response is A.",
    "Winner: Assistant A\n",
    "A\n\nIt is more accurate than B.",
    "B lacks an example.\n\n**A**",
    "Response A is better",
    "Overall, Response A is clearly the better reply.",
    "I would choose A.",
    "My choice is A, because it is short.",
    "While B is short, my final verdict is: A",
]
SECOND = [
    *["B", "b)", "Answer: **B**", "**Answer:** B", "answer: **b**.", "# B", "- B", "Answer:\nB", "response b"],
    "\\boxed{\\text{B}}",
    '{"better_response": "B"}',
    "A is vague and B precise.\n\nFinal verdict: Response B.",
    "[[B>A]]",
    "Response B wins.",
]
TIE = ["tie", "Tie.", "TIE", "Answer: tie", "a tie", "It's a tie.", "[[C]]", "[[A=B]]", '{"verdict": "tie"}', "Equal"]
UNCLEAR = [
    *[".", "Answer:", "C", "AB", "A B", "A or B", "A/B", "A, B", "not A", "ties", "Answera", "A\nB", "¬A", "tİe", "1"],
    *["Apple", "Neither", "A?", "А", "[[D]]", "Answer: A or B", "Answer: A, B", "winner: A and B", "winner: neither"],
    "A because B is rude",
    "Response A is better than Response B",
    "Response A is not better.",
    "I don't think Response A is better.",
    "Response A is better, but the other one is shorter.",
    "I am not sure the answer is A.",
    "I would choose A if it were shorter.",
    "Which is better: A or B?",
    "Answer with the letter A or B alone",
    "Answer A: good",
    "The answer A gives is wrong",
    "The answer is a matter of taste.",
    "The winner is not A.",
    "Answer: A. However, B is shorter",
    "Final answer: A\nFinal answer: B",
    "[[A]] or [[B]]",
    "A\nshort\nB\nlong",
    "### A\nshort\n### B\nlong",
    '{"winner": "C"}',
    '{"winner": "A"} {"winner": "B"}',
    '{"winner": "A", "preferred": "B", "scores": {"A": 5}}',
    '{"scores": {"A": 5, "B": 3}}',
    '{"A": 8, "B": 6}',
    "A careful reading shows that Response B is better.",
    "As a language model I like A and B.",
    "Both replies are helpful.",
]


@pytest.mark.parametrize(
    ("text", "probability"),
    [*((text, 1.0) for text in FIRST), *((text, 0.0) for text in SECOND), *((text, 0.5) for text in TIE)],
)
def test_unambiguous_answers_are_verdicts(text, probability):
    assert parse_answer(text) == Answer(probability, text)


@pytest.mark.parametrize("text", UNCLEAR)
def test_ambiguous_answers_are_invalid(text):
    assert parse_answer(text) == Answer(None, text, "unclear")


@pytest.mark.parametrize(
    ("text", "finish_reason", "has_reasoning", "problem"),
    [
        ("<think>The answer is A", "length", False, "cut"),
        ("<think>The answer is A", "stop", False, "thoughts"),
        ("", "length", True, "cut"),
        ("", "stop", True, "thoughts"),
        ("", "stop", False, "empty"),
        (" \n", "stop", False, "empty"),
        ("Response A is better at", "length", False, "cut"),
        ("A\nis a good answer, but", "length", False, "cut"),
        ("Answer: A or", "length", False, "cut"),
        ("<think>short</think>", "stop", False, "unclear"),
    ],
)
def test_answers_without_a_verdict_have_a_reason(text, finish_reason, has_reasoning, problem):
    assert parse_answer(text, finish_reason, has_reasoning) == Answer(None, text, problem)
    assert problem in PROBLEMS


@pytest.mark.parametrize("text", ["A", "[[A]] is", "A long text. Final answer: A"])
def test_verdict_before_truncation_counts(text):
    """With max_tokens 1 every answer is truncated after its letter."""
    assert parse_answer(text, "length").probability == 1.0


@pytest.mark.parametrize("part", ["a", "{", "\n", "answer is ", "[[ ", "<think>", "A ", "- ", "I choose ", '{"a": '])
def test_long_answers_are_parsed_quickly(part):
    """Answers of reasoning models can have megabytes, so every pattern must need linear time."""
    start = time.perf_counter()
    parse_answer(part * 100_000 + "x")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "text",
    ["[[" + " " * 100_000, "<answer>" + " " * 100_000, "\\boxed{" + " " * 100_000, "A is " + "*" * 100_000]
    + ["A " + "*A" * 50_000, "answer" + " :" * 50_000, "best" + " " * 100_000, "A is a" + "ly" * 50_000],
)
def test_hostile_answers_are_parsed_quickly(text):
    """No pattern backtracks over long runs of spaces or stars."""
    start = time.perf_counter()
    parse_answer(text + "x")
    assert time.perf_counter() - start < 5
