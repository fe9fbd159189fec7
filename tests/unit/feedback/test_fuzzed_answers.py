"""Random mutations of results of judges, their servers and reward functions: a valid result or a one-line error.

CI runs the same examples each time. For more, random examples: FUZZ_EXAMPLES=20000 pytest tests/unit -k fuzz
"""

import json

from hypothesis import given
from hypothesis import strategies as st

from mutations import as_json, as_objects, fuzzing, is_short_line, mutated, torn
from prefloop.core.errors import InputError
from prefloop.feedback.answers import PROBLEMS, Answer, parse_answer
from prefloop.feedback.completions import read_completion
from prefloop.feedback.reward_sources import Request, check_rewards
from prefloop.feedback.server_judge import AnswerCache, parse_completion

ANSWERS = [
    "A",
    "b.",
    "tie",
    "Answer: **B**",
    '{"winner": "A"}',
    "[[A]]",
    "<think>B is shorter.</think>\n\nA",
    "Final answer: A",
]
COMPLETION = {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "A", "reasoning_content": None},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": None},
}
CACHED = {"answer": "A", "prompt_tokens": 7, "completion_tokens": 1, "finish_reason": "stop", "has_reasoning": False}


def check_answer(answer: Answer) -> None:
    """Check that an answer is a verdict, or invalid for a known reason."""
    assert answer.probability in (0.0, 0.5, 1.0) if not answer.problem else answer.probability is None
    assert answer.problem in ("", *PROBLEMS)


@given(data=st.data())
@fuzzing(500)
def test_fuzzed_answers(data):
    text, reason = data.draw(torn(data.draw(st.sampled_from(ANSWERS)))), data.draw(st.sampled_from(["stop", "length"]))
    check_answer(parse_answer(text, reason, data.draw(st.booleans())))


@given(completion=mutated(COMPLETION), text=torn(json.dumps(COMPLETION)))
@fuzzing(500)
def test_fuzzed_completions(completion, text):
    """Any other body raises ValueError, which becomes status 502."""
    for body in (as_json(completion), text):
        try:
            answer = read_completion(body)
        except ValueError:
            continue
        assert json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
        check_answer(parse_completion(answer))


@given(answer=mutated(CACHED), text=torn(json.dumps(CACHED)))
@fuzzing(300)
def test_fuzzed_cache(tmp_path_factory, answer, text):
    cache = AnswerCache(tmp_path_factory.getbasetemp() / "fuzzed cache", "http://x/v1")
    path = cache.path({"a": 1})
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in (as_json(answer), text):
        path.write_text(content, encoding="utf-8", errors="surrogatepass")
        try:
            check_answer(parse_completion(cache.read({"a": 1})))
        except InputError as error:
            assert is_short_line(str(error))


@given(rewards=mutated([1.0, 2.0]))
@fuzzing(300)
def test_fuzzed_rewards(rewards):
    requests = [Request("p", number, [], "x") for number in range(2)]
    try:
        assert len(check_rewards(as_objects(rewards), requests, "mine")) == 2
    except InputError as error:
        assert is_short_line(str(error))
