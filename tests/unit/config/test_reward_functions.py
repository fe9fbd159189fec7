"""Reward functions with parameters that no row can fill are refused before any job."""

import pytest

from conftest import TINY, merge
from prefloop.config.validation import checked
from prefloop.core.errors import InputError

CONFIG = merge(TINY, {"policy": {"model": "some/model"}, "prompts": {"keep": ["answer"]}})


def check(tmp_path, definition: str) -> None:
    (tmp_path / "own.py").write_text(f"{definition}\n    return 0\n")
    checked(merge(CONFIG, {"feedback": {"function": f"{tmp_path}/own.py:score"}}))


@pytest.mark.parametrize(
    "definition",
    [
        "def score(prompts, responses):",
        "def score(p, r):",
        "def score(*texts):",
        "async def score(response, answer, *, meta, finish_reason='stop'):",
        "def score(responses, unknown=None, **columns):",
        "@decorated\ndef score(nothing):",
        "class score:\n    def __init__(self, nothing): pass\ndef other():",
    ],
)
def test_functions_that_can_be_called_pass(tmp_path, definition):
    check(tmp_path, definition)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("def score(texts):", "score has parameters texts, expected prompts and responses"),
        ("def score(prompts, response):", "score has parameters prompts, response; take prompts and responses, or"),
        ("def score(responses, reference):", "score has parameter reference, expected some of prompts, .*, answer; "),
        ("async def score(response, *, reference):", "score has parameter reference, expected some of prompts, .*"),
        ("def score(p, r, reference):", "prompts.keep adds columns of the source"),
        ("def score(meta, /, responses):", "score has parameter meta before a /"),
    ],
)
def test_functions_that_cannot_be_called_are_refused(tmp_path, definition, message):
    with pytest.raises(InputError, match=f"^config: feedback.function: .*{message}"):
        check(tmp_path, definition)


def test_separate_evaluation_set_needs_its_own_columns(tmp_path):
    """The function rewards responses to both sets of prompts."""
    (tmp_path / "own.py").write_text("def score(response, answer):\n    return 0\n")
    (tmp_path / "eval.jsonl").write_text('{"prompt": "why?", "answer": "so"}\n' * 9)
    config = merge(CONFIG, {"feedback": {"function": f"{tmp_path}/own.py:score"}})
    config = merge(config, {"evaluation": {"prompts": {"source": f"{tmp_path}/eval.jsonl"}}})
    with pytest.raises(InputError, match="score has parameter answer, .*; evaluation.prompts.keep adds columns"):
        checked(config)
    checked(merge(config, {"evaluation": {"prompts": {"keep": ["answer"]}}}))
