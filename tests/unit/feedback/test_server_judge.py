"""The judge server client: failures do not lose, repeat or invent judgments, and the key stays secret."""

import hashlib
import itertools
import json
import logging
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace

import pytest

from conftest import ROOT
from judge_server import SOON, JudgeServer, Reply
from prefloop.config.feedback_settings import Judging, RequestOptions
from prefloop.config.prompt_settings import ChatConfig
from prefloop.core.costs import Usage
from prefloop.core.errors import InputError
from prefloop.feedback.answers import Answer
from prefloop.feedback.judgments import Judgment, judge_pairs
from prefloop.feedback.server_judge import AnswerCache, ServerJudge

TEMPLATE = "{conversation}|{response_a}|{response_b}"
KEY = "sk-test-0123456789-secret"


# The tests' judge prefers the longer response, and gives an unclear answer if the prompt contains "nonsense".
def judged_by_length(question: str) -> str:
    prompt, first, second = question.split("|")
    if "nonsense" in prompt:
        return "As a language model I like A and B."
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def truth(prompt: list[dict], a: str, b: str) -> Judgment:
    answer = {"A": 1.0, "B": 0.0, "tie": 0.5}.get(judged_by_length(f"{prompt[0]['content']}|{a}|{b}"))
    return Judgment(answer, answer)


def pairs(count: int) -> tuple[list, list, list]:
    """Return pairs with lengths 1 to 5, so that some are tied; every seventh prompt contains "nonsense"."""
    prompts = [[{"role": "user", "content": f"{'nonsense' if i % 7 == 6 else 'prompt'} {i}"}] for i in range(count)]
    return prompts, ["x" * (1 + i % 5) for i in range(count)], ["y" * (1 + i % 3) for i in range(count)]


def outcomes(judgments: list[Judgment]) -> list[str]:
    return [judgment.outcome for judgment in judgments]


def dice(question: str) -> float:
    """Return a number in [0, 1) that depends only on the question."""
    return int(hashlib.sha256(question.encode()).hexdigest()[:8], 16) / 2**32


@pytest.fixture
def judging(tmp_path, monkeypatch) -> Judging:
    """Settings of a judge server with the key in the environment, but without `base_url`."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "short.txt").write_text(TEMPLATE + "\n")
    return Judging(
        template=tmp_path / "short.txt",
        model="judge",
        api_key_env="JUDGE_KEY",
        timeout=5.0,
        cache=tmp_path / "cache",
    )


@pytest.mark.parametrize("address", ["http://me:hunter2@x/v1", "https://x/v1?key=hunter2", "https://x/v1#hunter2"])
def test_address_with_a_secret_is_refused_without_repeating_it(judging, address):
    """Programs can also be run by hand, with an address that was not validated as a config."""
    with pytest.raises(
        InputError, match=r"^judge\.base_url: an address with a user name, a password or a query"
    ) as caught:
        ServerJudge(replace(judging, base_url=address))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(InputError, match=r"^judge\.base_url: 'localhost:8000', expected an address such as"):
        ServerJudge(replace(judging, base_url="localhost:8000"))


def test_each_order_is_asked_once(judging):
    """Equal questions are one request, and a second run uses the cache instead of the server."""
    prompts, a, b = pairs(21)
    prompts, a, b = [*prompts, *prompts[:5]], [*a, *a[:5]], [*b, *b[:5]]
    with JudgeServer(judged_by_length) as server:
        judge = ServerJudge(replace(judging, base_url=server.url))
        judgments = judge_pairs(judge, prompts, a, b)
    assert judgments == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]
    assert set(outcomes(judgments)) == {"A", "B", "tie", "invalid"}
    assert set(server.attempts.values()) == {1}
    assert len(server.attempts) == 42
    assert judge.usage == Usage("server", 0, 4200, 84, {"asked": 42, "cached": 0, "retried": 0})
    first = server.bodies[0]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("judge", 0, 16)
    again = ServerJudge(replace(judging, base_url=server.url + "/"))
    assert judge_pairs(again, prompts, a, b) == judgments
    assert again.usage == Usage("server", 0, 4200, 84, {"asked": 0, "cached": 42, "retried": 0})


def test_cache_depends_on_the_whole_request(judging):
    """Another model, server, template or answer length is another question. A torn answer raises."""
    prompts, a, b = pairs(1)
    with JudgeServer(judged_by_length) as server, JudgeServer(judged_by_length) as other:
        settings = replace(judging, base_url=server.url)
        judge_pairs(ServerJudge(settings), prompts, a, b)
        judging.template.with_name("other.txt").write_text(f"{TEMPLATE} ")
        for changed in ({"model": "other"}, {"base_url": other.url}, {"max_tokens": 8}, {}):
            judge = ServerJudge(replace(settings, **changed))
            judge_pairs(judge, prompts, a, b)
            assert judge.usage.requests["asked"] == (2 if changed else 0), changed
    file = next(judging.cache.rglob("*.json"))
    assert len(list(judging.cache.rglob("*"))) > len(list(judging.cache.rglob("*.json"))) == 8
    assert file.parent.name == file.stem[:2]
    for torn in ("{", '{"answer": 1}'):
        for path in judging.cache.rglob("*.json"):
            path.write_text(torn)
        with pytest.raises(InputError, match=r"\.json: not "):
            judge_pairs(ServerJudge(settings), prompts, a, b)


def test_server_failures_do_not_change_judgments(judging):
    """A third of first attempts fail. Others stall, break off, are not JSON or no completion, or must wait."""
    prompts, a, b = pairs(60)

    def trouble(question, attempt, headers):
        chance = dice(question)
        if attempt > (chance < 0.1):  # a tenth fails twice
            return None
        if chance < 0.3:
            return Reply(500, '{"error": {"message": "overloaded"}}', SOON)
        if chance < 0.33:
            return Reply(200, "{}", stall=1.5)
        for limit, body in ((0.4, '{"choices": [{"mess'), (0.45, "A"), (0.5, '{"error": {"code": 1}}')):
            if chance < limit:
                return Reply(200, body, SOON)
        return Reply(429, "slow down", {"retry-after": "0.02"}) if chance < 0.6 else None

    with JudgeServer(judged_by_length, trouble) as server:
        judge = ServerJudge(replace(judging, base_url=server.url, timeout=1.0, concurrency=16))
        judgments = judge_pairs(judge, prompts, a, b)
    assert judgments == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == judge.usage.requests["asked"] == 120
    assert judge.usage.requests["retried"] == sum(server.attempts.values()) - 120 > 60
    assert sum(0.3 <= dice(question) < 0.33 for question in server.attempts) >= 2  # some did stall


def test_retry_after_is_respected(judging):
    prompts, a, b = pairs(1)

    def busy(question, attempt, headers):
        return Reply(429, "slow down", {"retry-after": "1"}) if attempt == 0 else None

    with JudgeServer(judged_by_length, busy) as server:
        judge = ServerJudge(replace(judging, base_url=server.url))
        start = time.monotonic()
        judge_pairs(judge, prompts, a, b)
    assert judge.usage.requests["retried"] == 2
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("limit", [1, 5])
def test_concurrency_is_limited(judging, limit):
    prompts, a, b = pairs(20)

    def trouble(question, attempt, headers):
        return Reply(503, "", SOON) if attempt == 0 and dice(question) < 0.3 else None

    with JudgeServer(judged_by_length, trouble, pause=0.02) as server:
        judge_pairs(ServerJudge(replace(judging, base_url=server.url, concurrency=limit)), prompts, a, b)
    assert server.peak == limit


def test_run_continues_after_the_server_stopped(judging):
    """Over both runs every question is answered exactly once. The first run's message says what to do."""
    prompts, a, b = pairs(30)
    settings, request = replace(judging, concurrency=4, max_retries=0), itertools.count()

    def die(question, attempt, headers):
        if next(request) >= 25:
            server.stop()
            raise ConnectionAbortedError

    with JudgeServer(judged_by_length, die) as server:
        settings = replace(settings, base_url=server.url)
        with pytest.raises(InputError) as caught:
            judge_pairs(ServerJudge(settings), prompts, a, b)
    assert "of 60 requests failed, the first with APIConnectionError; " in str(caught.value)
    assert f"Answers are kept in {judging.cache}: running again continues" in str(caught.value)
    assert len(list(judging.cache.rglob("*.json"))) == len(server.answered) == 25
    with JudgeServer(judged_by_length, port=server.port) as revived:
        judge = ServerJudge(settings)
        judgments = judge_pairs(judge, prompts, a, b)
    assert judgments == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]
    assert (judge.usage.requests["asked"], judge.usage.requests["cached"], judge.usage.tokens_in) == (35, 25, 6000)
    answered = server.answered + revived.answered
    assert set(answered.values()) == {1} and len(answered) == 60


def test_killed_run_continues(judging):
    """The process is killed while it waits for the eleventh answer, with ten answers on disk."""
    prompts, a, b = pairs(10)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from prefloop.feedback.judgments import *\n"
        "from prefloop.feedback.server_judge import *\n"
        "from pathlib import Path\n"
        "server = {'base_url': sys.argv[3], 'model': 'judge', 'concurrency': 1}\n"
        "judging = Judging(template=Path(sys.argv[2]), cache=Path(sys.argv[4]), **server)\n"
        "judge_pairs(ServerJudge(judging), *eval(sys.argv[5]))"
    )
    settings = [str(judging.template), "URL", str(judging.cache), repr((prompts, a, b))]

    def kill(question, attempt, headers):
        if len(server.answered) == 10:
            process.kill()
            return Reply(500)
        return None

    with JudgeServer(judged_by_length, kill) as server:
        settings[1] = server.url
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(ROOT / "workflow/scripts"), *settings], stderr=subprocess.DEVNULL
        )
        assert process.wait(30) == -signal.SIGKILL
    with JudgeServer(judged_by_length, port=server.port) as revived:
        judge = ServerJudge(replace(judging, base_url=revived.url))
        assert judge_pairs(judge, prompts, a, b) == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]
    assert (judge.usage.requests["asked"], judge.usage.requests["cached"]) == (10, 10)
    assert set((server.answered + revived.answered).values()) == {1}


def test_one_failure_does_not_stop_the_others(judging):
    prompts, a, b = pairs(20)

    def stumble(question, attempt, headers):
        return Reply(501, '{"error": {"message": "not today"}}', SOON) if "prompt 3|" in question else None

    with JudgeServer(judged_by_length, stumble) as server:
        settings = replace(judging, base_url=server.url, max_retries=0)
        for total in (40, 2):  # the second run asks only the two failed questions
            with pytest.raises(
                InputError, match=f"2 of {total} requests failed, the first with 501 .*: not today. Ans"
            ):
                judge_pairs(ServerJudge(settings), prompts, a, b)
        assert (len(server.answered), sum(server.attempts.values())) == (38, 42)
        server.trouble = lambda *request: None
        judgments = judge_pairs(ServerJudge(settings), prompts, a, b)
    assert judgments == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]


def test_rejected_question_is_invalid(judging):
    """The server rejects the first twelve pairs as too long and judges the rest.

    Rejections are not cached. A second run repeats the rejected questions and one answered question, which shows that
    the settings are valid.
    """
    prompts, a, b = pairs(30)
    long = {f"prompt {i}|" for i in range(12)} | {"nonsense 6|"}

    def refuse(question, attempt, headers):
        too_long = any(mark in question for mark in long)
        return Reply(400, '{"error": {"message": "too long"}}') if too_long else None

    with JudgeServer(judged_by_length, refuse) as server:
        settings = replace(judging, base_url=server.url)
        for asked in (60, 24 + 1):
            judge = ServerJudge(settings)
            judgments = judge_pairs(judge, prompts, a, b)
            assert judge.usage.requests["asked"] == asked
            assert [v.outcome for v in judgments[:12]] == ["invalid"] * 12
            assert judgments[0].answers[0] == Answer(None, "400 Bad Request: too long", "refused")
            assert judgments[12:] == [truth(*pair) for pair in zip(prompts[12:], a[12:], b[12:], strict=True)]
    cached = [json.loads(path.read_text()) for path in judging.cache.rglob("*.json")]
    assert len(cached) == 36
    assert not any("too long" in str(answer) for answer in cached)


def test_settings_refused_by_the_server_raise(judging):
    """If the server refuses all new questions, the stage stops despite cached answers, and no refusal is cached."""
    prompts, a, b = pairs(20)
    refusal = Reply(400, '{"error": {"message": "Unsupported parameter: max_tokens"}}')
    with JudgeServer(judged_by_length) as server:
        settings = replace(judging, base_url=server.url)
        judge_pairs(ServerJudge(settings), prompts[:5], a[:5], b[:5])
        server.trouble = lambda *request: refusal
        for _ in range(2):
            with pytest.raises(InputError) as caught:
                judge_pairs(ServerJudge(settings), prompts, a, b)
            message = "30 of 30 requests failed, the first with 400 Bad Request: Unsupported parameter: max_tokens; "
            assert message in str(caught.value)
            assert "rename: {max_tokens: max_completion_tokens}" in str(caught.value)
        assert len(list(judging.cache.rglob("*.json"))) == 10
        server.trouble = lambda *request: None
        judgments = judge_pairs(ServerJudge(settings), prompts, a, b)
    assert judgments == [truth(*pair) for pair in zip(prompts, a, b, strict=True)]


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "JUDGE_KEY"), (403, "JUDGE_KEY"), (404, "/v1"), (400, "request"), (422, "request")]
)
def test_refusals_name_the_remedy(judging, status, remedy):
    """The error is one line with the server's message and what to change."""
    refusal = Reply(status, '{"error": {"message": "no\\nway"}}', SOON)
    with JudgeServer(judged_by_length, lambda *request: refusal) as server:
        settings = replace(judging, base_url=server.url)
        with pytest.raises(InputError, match=f"the first with {status} .*: no way; .*{remedy}") as caught:
            judge_pairs(ServerJudge(settings), *pairs(1))
    assert "\n" not in str(caught.value)
    assert not judging.cache.exists()


def test_cached_refusals_of_earlier_versions_are_asked_again(judging):
    """An earlier version stored refusals as empty answers."""
    prompts, a, b = pairs(1)
    with JudgeServer(judged_by_length) as server:
        settings = replace(judging, base_url=server.url)
        judge_pairs(ServerJudge(settings), prompts, a, b)
        for path in judging.cache.rglob("*.json"):
            path.write_text('{"answer": "", "prompt_tokens": 0, "completion_tokens": 0, "refused": "400 Bad Request"}')
        judge = ServerJudge(settings)
        assert judge_pairs(judge, prompts, a, b) == [truth(prompts[0], a[0], b[0])]
    assert judge.usage.requests["asked"] == 2


def test_request_options_change_the_request(judging):
    """Fields can be dropped, renamed and added. Each variant is a separate question in the cache."""
    prompts, a, b = pairs(1)
    options = [
        RequestOptions(),
        RequestOptions(drop=("temperature",), rename={"max_tokens": "max_completion_tokens"}),
        RequestOptions(extra={"temperature": 1, "reasoning": {"effort": "low"}}),
    ]
    with JudgeServer(judged_by_length) as server:
        for request in options:
            settings = replace(judging, base_url=server.url, request=request)
            judge = ServerJudge(settings)
            judge_pairs(judge, prompts, a, b)
            assert judge.usage.requests["asked"] == 2
    sent = [{name: body[name] for name in body.keys() - {"messages"}} for body in server.bodies[::2]]
    assert sent == [
        {"model": "judge", "max_tokens": 16, "temperature": 0},
        {"model": "judge", "max_completion_tokens": 16},
        {"model": "judge", "max_tokens": 16, "temperature": 1, "reasoning": {"effort": "low"}},
    ]


def test_cache_keys_of_earlier_versions_are_valid(judging):
    """The file name is the SHA-256 of server, model, messages, max_tokens and temperature."""
    request = ServerJudge(replace(judging, base_url="http://localhost/v1")).request("who?")
    path = AnswerCache(judging.cache, "http://localhost/v1/").path(request)
    assert path.name == "e8fd722374616ac0ba2d6f6f2a7015d4dada6ed4c357b486848c616bc1c8c82f.json"


def test_system_prompt_and_template_variables_are_sent(judging):
    """The template's variables are in vLLM's field `chat_template_kwargs`."""
    with JudgeServer(judged_by_length) as server:
        judge = ServerJudge(replace(judging, base_url=server.url), ChatConfig({"enable_thinking": False}, "Be fair."))
        judge_pairs(judge, *pairs(1))
    assert server.bodies[0]["messages"][0] == {"role": "system", "content": "Be fair."}
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("choice", "answer"),
    [
        (
            {"message": {"content": None, "reasoning_content": "Hm."}, "finish_reason": "length"},
            Answer(None, "", "cut"),
        ),
        ({"message": {"content": None, "reasoning": "Hm."}, "finish_reason": "stop"}, Answer(None, "", "thoughts")),
        ({"message": {"content": None}, "finish_reason": "stop"}, Answer(None, "", "empty")),
        ({"message": {"role": "assistant"}, "finish_reason": "length"}, Answer(None, "", "cut")),
        ({"message": {"content": "<think>Hm, A"}, "finish_reason": "length"}, Answer(None, "<think>Hm, A", "cut")),
        ({"message": {"content": "A"}, "finish_reason": None}, Answer(1.0, "A")),
        ({"message": {"content": "A"}}, Answer(1.0, "A")),
        (
            {"message": {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "B"}]}},
            Answer(0.0, "B"),
        ),
    ],
)
def test_completions_of_reasoning_models(judging, choice, answer):
    """Thoughts may be in a separate field or part. Answers without a verdict have a reason."""
    body = json.dumps({"choices": [choice]})
    with JudgeServer(judged_by_length, lambda *request: Reply(200, body)) as server:
        settings = replace(judging, base_url=server.url)
        for _ in range(2):  # from the server, then from the cache
            assert judge_pairs(ServerJudge(settings), *pairs(1))[0].answers == (answer, answer)


def test_server_that_rejects_everything_raises(judging):
    """If no question is answered, the settings must be wrong, so this is an error and not 20 invalid judgments."""
    prompts, a, b = pairs(20)
    refusal = Reply(400, '{"error": {"message": "no such"}}')
    message = "40 of 40 requests failed, the first with 400 .*: no such"
    with JudgeServer(judged_by_length, lambda *r: refusal) as server, pytest.raises(InputError, match=message):
        judge_pairs(ServerJudge(replace(judging, base_url=server.url)), prompts, a, b)
    assert not judging.cache.exists()


def test_retries_are_limited(judging):
    prompts, a, b = pairs(1)
    with JudgeServer(judged_by_length, lambda *request: Reply(200, "<html>", SOON)) as server:
        judge = ServerJudge(replace(judging, base_url=server.url, max_retries=3))
        with pytest.raises(InputError, match="2 of 2 requests failed, the first with 502 no chat completion: <html>"):
            judge_pairs(judge, prompts, a, b)
    assert list(server.attempts.values()) == [4, 4]
    assert judge.usage.requests["retried"] == 6
    assert not judging.cache.exists()


def test_silent_server_raises(judging):
    prompts, a, b = pairs(1)
    with JudgeServer(judged_by_length, lambda *request: Reply(200, stall=0.5)) as server:
        judge = ServerJudge(replace(judging, base_url=server.url, max_retries=0, timeout=0.1))
        with pytest.raises(InputError, match="2 of 2 requests failed, the first with APITimeoutError"):
            judge_pairs(judge, prompts, a, b)


def test_refused_key_is_not_retried_and_never_shown(judging, tmp_path, capfd, caplog, monkeypatch):
    """The server repeats the key in its messages and headers, and all logs are at debug level."""
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    prompts, a, b = pairs(100)
    seen = set()

    def refuse(question, attempt, headers):
        seen.add(headers["authorization"])
        words = f"bad key in {headers['authorization']}"
        return Reply(401, json.dumps({"error": {"message": words, "code": KEY}}), {"x-request-id": KEY})

    with JudgeServer(judged_by_length, refuse) as server:
        with pytest.raises(InputError, match=r"with 401 Unauthorized: bad key in Bearer \[key\]; ") as caught:
            judge_pairs(ServerJudge(replace(judging, base_url=server.url)), prompts, a, b)
        assert set(server.attempts.values()) == {1}
        assert len(server.attempts) < 30  # the remaining questions of 200 are not asked
        server.trouble = lambda question, attempt, headers: Reply(401, f"{KEY} is not it", SOON)
        with pytest.raises(InputError, match=r"401 Unauthorized: \[key\] is not it") as plain:
            judge_pairs(ServerJudge(replace(judging, base_url=server.url)), prompts, a, b)
        server.trouble, server.answer = (lambda *request: None), lambda question: f"A {KEY}"
        judgments = judge_pairs(ServerJudge(replace(judging, base_url=server.url)), prompts, a, b)
    assert set(outcomes(judgments)) == {"invalid"}
    assert seen == {f"Bearer {KEY}"}
    shown = capfd.readouterr()
    texts = [shown.out, shown.err, caplog.text]
    for error in (caught.value, plain.value):
        assert error.__context__ is None
        texts += traceback.format_exception(error)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 201
    assert not any(KEY in text for text in [*texts, *map(str, files), *(path.read_text() for path in files)])


def test_missing_key_is_allowed(judging, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    prompts, a, b = pairs(1)
    seen = []
    with JudgeServer(lambda q: "B", lambda q, attempt, headers: seen.append(headers["authorization"])) as server:
        assert outcomes(judge_pairs(ServerJudge(replace(judging, base_url=server.url)), prompts, a, b)) == ["tie"]
    assert seen == ["Bearer none"] * 2
    monkeypatch.setenv("JUDGE_KEY", "two words")
    with pytest.raises(InputError, match="^environment variable JUDGE_KEY: not a key, it has spaces"):
        ServerJudge(replace(judging, base_url=server.url))


def test_missing_address_or_model_raises(judging):
    with pytest.raises(InputError, match="^judge.base_url: missing"):
        ServerJudge(judging)
    with pytest.raises(InputError, match="^judge.model: missing"):
        ServerJudge(replace(judging, base_url="http://127.0.0.1/v1", model=None))


def test_answer_without_text_is_invalid(judging):
    """For example, a model may spend all of its tokens on thoughts."""
    with JudgeServer(lambda question: None) as server:
        judge = ServerJudge(replace(judging, base_url=server.url))
        assert judge_pairs(judge, *pairs(2)) == [Judgment(None, None)] * 2


def test_heavy_packages_are_not_imported():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import prefloop.feedback.annotate\n"
        "assert not {'torch', 'transformers', 'openai', 'tqdm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(ROOT / "workflow/scripts")], check=True)
