"""Rewards of functions and data sets; errors of functions name the function and the response."""

import asyncio
import io
import sys

import pytest
import torch

from prefloop.core import progress
from prefloop.core.errors import InputError, SettingError
from prefloop.feedback.annotate import annotate
from prefloop.feedback.reward_sources import DatasetRewards, FunctionRewards, Request

PROMPT = [{"role": "user", "content": "why?"}]
REQUESTS = [Request("p1", 0, PROMPT, "good", "chosen"), Request("p2", 1, PROMPT, "bad", "rejected")]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda p, r: [1.0, float("nan")], "nan for prompt p2, response 1"),
        (lambda p, r: [1.0, None], "None for prompt p2, response 1"),
        (lambda p, r: [1.0, 10**5000], "a value of type int for prompt p2, response 1: every response needs a finite"),
        (lambda p, r: [1.0], "1 rewards for 2 responses"),
        (lambda p, r: None, "returned NoneType, expected a list of numbers"),
        (lambda p, r: [1.0 / (x != "bad") for x in r], "ZeroDivisionError.*first for prompt p2, response 1"),
    ],
)
def test_misbehaving_function_raises(function, message):
    with pytest.raises(InputError, match=message):
        FunctionRewards(function).rewards(REQUESTS)


def failing_generator(prompts, responses):
    for response in responses:
        yield 1.0 / (response != "bad")


def endless_generator(prompts, responses):
    while True:
        yield 1.0


def raising_type_error(prompts, responses):
    yield from [1.0 + response for response in responses]


class Unreadable:
    """A reward that raises when it is converted to a number."""

    def __float__(self):
        raise OSError("no such reward")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (failing_generator, "failing_generator raised ZeroDivisionError: .*line .*first for prompt p2, response 1"),
        (raising_type_error, "raising_type_error raised TypeError: unsupported .*first for prompt p1, response 0"),
        (endless_generator, "endless_generator returned 3 rewards for 2 responses"),
        (lambda p, r: [1.0, 10**400], "1000.* for prompt p2, response 1: every response needs"),
        (lambda p, r: [1.0, Unreadable()], "Unreadable.* for prompt p2, response 1: every response needs a finite"),
    ],
)
def test_failing_generators_and_invalid_rewards_raise_with_one_line(function, message):
    with pytest.raises(InputError, match=message) as caught:
        FunctionRewards(function).rewards(REQUESTS)
    assert str(caught.value).isprintable()


def full_on_all(prompts, responses):
    """Run out of memory for several responses, but not for a single one."""
    if len(responses) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return [1.0]


def full_on_one(prompts, responses):
    raise MemoryError if len(responses) == 1 else KeyError("no such word")


def full_on_single(prompt, response):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    ("function", "kind"),
    [(full_on_all, torch.OutOfMemoryError), (full_on_one, MemoryError), (full_on_single, torch.OutOfMemoryError)],
)
def test_memory_errors_are_passed_on(function, kind):
    """The program then explains how to use less memory. The function is not called again per response."""
    with pytest.raises(kind):
        FunctionRewards(function).rewards(REQUESTS)


def test_memory_error_of_another_machine_is_an_ordinary_error():
    def asking(prompts, responses):
        raise ConnectionError("503: the server is out of memory")

    with pytest.raises(InputError, match="asking raised ConnectionError: 503"):
        FunctionRewards(asking).rewards(REQUESTS)


def test_generator_gives_rewards():
    assert FunctionRewards(lambda p, r: (float(len(x)) for x in r)).rewards(REQUESTS) == [4.0, 3.0]


def test_dataset_prefers_chosen_responses():
    assert DatasetRewards().rewards(REQUESTS) == [1.0, 0.0]


def test_function_gets_prompts_and_responses():
    def lengths(prompts, responses):
        return [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]

    source = FunctionRewards(lengths)
    assert source.rewards(REQUESTS) == [5.0, 4.0]


ROW = {
    "finish_reason": "length",
    "n_tokens": 7,
    "meta": {"answer": "42", "level": 3},
    "chosen": "yes",
    "rejected": None,
}
WITH_COLUMNS = [
    Request("p1", 0, PROMPT, "good", "policy", ROW),
    Request("p2", 1, PROMPT, "bad", "reference", ROW | {"finish_reason": "stop", "meta": {"answer": "no", "level": 1}}),
]


def test_function_gets_the_columns_in_its_signature():
    """Columns of the response, its prompt and its meta are lists parallel to the responses."""
    seen = {}

    def score(responses, answer, *, finish_reason, n_tokens, meta, chosen, prompt_id, missing="none", level=0):
        seen.update(locals())
        return [1.0] * len(responses)

    assert FunctionRewards(score).rewards(WITH_COLUMNS) == [1.0, 1.0]
    del seen["seen"]
    assert seen == {
        "responses": ["good", "bad"],
        "answer": ["42", "no"],
        "finish_reason": ["length", "stop"],
        "n_tokens": [7, 7],
        "meta": [{"answer": "42", "level": 3}, {"answer": "no", "level": 1}],
        "chosen": ["yes", "yes"],
        "prompt_id": ["p1", "p2"],
        "missing": "none",
        "level": [3, 1],
    }


def test_parameters_are_passed_by_name():
    """A parameter named `responses` is passed by name. With other names, prompts and responses are passed in order."""
    assert FunctionRewards(lambda responses, prompts: [len(r) for r in responses]).rewards(REQUESTS) == [4.0, 3.0]
    assert FunctionRewards(lambda p, r, n_tokens: n_tokens).rewards(WITH_COLUMNS) == [7.0, 7.0]
    assert FunctionRewards(lambda *texts: [len(r) for r in texts[1]]).rewards(REQUESTS) == [4.0, 3.0]
    everything = FunctionRewards(lambda prompts, responses, **columns: [len(columns)] * len(responses))
    assert everything.rewards(WITH_COLUMNS) == [8.0, 8.0]


def test_function_of_one_response():
    def score(prompt, response, level):
        return len(prompt[0]["content"]) + len(response) + level

    assert FunctionRewards(score).rewards(WITH_COLUMNS) == [4.0 + 4 + 3, 4.0 + 3 + 1]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_async_function_of_one_response_is_limited(concurrency):
    """At most `concurrency` calls run at once, and rewards are in the order of the responses."""
    running, peak = 0, 0

    async def score(response):
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.02 if response == "r0" else 0.001)
        running -= 1
        return int(response[1:])

    requests = [Request("p", i, PROMPT, f"r{i}") for i in range(12)]
    assert FunctionRewards(score, concurrency).rewards(requests) == [float(i) for i in range(12)]
    assert peak == concurrency


def all_responses(prompts, responses):
    return [slow(response) for response in responses]


def one_response(response):
    return slow(response)


async def all_awaited(responses):
    return [slow(response) for response in responses]


def slow(response):
    """Return a reward after 20 seconds of the test's clock."""
    progress.time.monotonic.now += 20
    return len(response)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("function", [all_responses, one_response, all_awaited])
def test_slow_function_shows_rate_and_remaining_time(function, monkeypatch, capsys):
    """Both the log and the status file show them."""
    statuses = []
    monkeypatch.setattr(progress.time, "monotonic", Clock())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "write_status", lambda stage, state, **amounts: statuses.append((stage, amounts)))
    rows = [{"prompt_id": "p", "cluster": 0, "response_id": i, "response": "r" * i} for i in range(4)]
    annotated = annotate(FunctionRewards(function), {"p": PROMPT}, rows)
    assert [row["reward"] for row in annotated.rows] == [0.0, 1.0, 2.0, 3.0]
    name = function.__name__
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: 2/4 responses, 40 s, 0.05 responses/s, about 40 s left",
    ]
    assert (
        name,
        {"done": 3, "total": 4, "unit": "response", "tokens": 0, "seconds": 60.0, "seconds_left": 20.0},
    ) in statuses


def test_async_function_of_all_responses():
    async def score(prompts, responses):
        await asyncio.sleep(0)
        return [len(response) for response in responses]

    assert FunctionRewards(score).rewards(REQUESTS) == [4.0, 3.0]


def test_async_function_keeps_its_event_loop():
    """Clients and semaphores of a module work only in one loop, and an evaluation calls a function several times."""
    slots = asyncio.Semaphore(1)

    async def score(response):
        async with slots:
            await asyncio.sleep(0)
        return len(response)

    async def score_all(prompts, responses):
        return await asyncio.gather(*map(score, responses))

    for function in (score, score_all, score):
        assert FunctionRewards(function).rewards(REQUESTS) == [4.0, 3.0]


def failing(response):
    return 1 / (response != "bad")


async def failing_later(response):
    await asyncio.sleep(0)
    return failing(response)


async def exiting(response):
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (failing, "^feedback failing raised ZeroDivisionError.*first for prompt p2, response 1$"),
        (failing_later, "^feedback failing_later raised ZeroDivisionError.*first for prompt p2, response 1$"),
        (exiting, "^feedback exiting raised SystemExit: 0"),
        (lambda response: float("nan"), "nan for prompt p1, response 0: every response needs a finite number$"),
        (lambda prompts, responses, result: [0, 0], "^prompt p1: no result, which feedback.function asks for; list"),
        (lambda response, result: 0, "^prompt p1: no result, which feedback.function asks for; list"),
    ],
)
def test_errors_of_functions_are_one_line(function, message):
    with pytest.raises(InputError, match=message) as caught:
        FunctionRewards(function).rewards(WITH_COLUMNS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: [], "^function: <lambda> has parameters texts, expected prompts and responses"),
        (lambda: [], "^function: <lambda> has parameters none, expected prompts and responses"),
        (lambda prompts, response: [], "has parameters prompts, response; take prompts and responses, or prompt and"),
        (lambda meta, /, responses: [], "has parameter meta before a /, which cannot be passed by name"),
    ],
)
def test_parameters_that_do_not_fit_raise(function, message):
    with pytest.raises(SettingError, match=message):
        FunctionRewards(function)


def test_builtin_without_a_signature_is_called_with_both_texts():
    with pytest.raises(InputError, match="^feedback max raised TypeError"):
        FunctionRewards(max).rewards(REQUESTS)
