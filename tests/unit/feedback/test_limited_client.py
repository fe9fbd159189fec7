"""A judge server is not trusted: any reply leads to a verdict or a one-line error within limits."""

import gzip
import itertools
import json
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from judge_server import JudgeServer, Reply, completion
from prefloop.config.feedback_settings import Judging
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.feedback.annotate import raw_answers
from prefloop.feedback.judgments import Judgment, judge_pairs
from prefloop.feedback.server_judge import KEPT, AnswerCache, ServerJudge

PAIR = [[{"role": "user", "content": "p"}]], ["first"], ["second"]
MEGABYTE = 1 << 20


@pytest.fixture
def judging(tmp_path, monkeypatch) -> Judging:
    """Settings of a judge without retries and without `base_url`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "short.txt").write_text("{conversation}|{response_a}|{response_b}\n")
    settings = Judging(template=tmp_path / "short.txt", model="judge", cache=tmp_path / "cache")
    return replace(settings, timeout=20.0, max_retries=0)


def judge_once(settings: Judging, reply: Reply) -> tuple[Judgment, ServerJudge]:
    """Judge one pair with a server that always sends the same reply."""
    with JudgeServer(lambda question: "A", lambda *request: reply) as server:
        judge = ServerJudge(replace(settings, base_url=server.url))
        (judgment,) = judge_pairs(judge, *PAIR)
    return judgment, judge


def sent_slowly(part: bytes) -> bytes:
    time.sleep(0.1)
    return part


def test_slow_answer_times_out(judging):
    """The timeout is for the whole answer, not for the time between two bytes."""
    start = time.monotonic()
    with pytest.raises(InputError, match=r"APITimeoutError; judge\.timeout allows 0\.5 seconds for a whole answer"):
        judge_once(replace(judging, timeout=0.5), Reply(200, parts=map(sent_slowly, itertools.repeat(b" "))))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "make_reply",
    [
        lambda: Reply(200, parts=itertools.repeat(b"A" * 10_000)),
        lambda: Reply(500, parts=itertools.repeat(b"A" * 10_000)),
        lambda: Reply(200, completion("A" * 2 * MEGABYTE)),
        lambda: Reply(200, gzip.compress(completion("A" * 50 * MEGABYTE).encode()), {"content-encoding": "gzip"}),
    ],
    ids=["endless", "endless error", "long", "gzip bomb"],
)
def test_large_answers_need_little_memory(judging, make_reply):
    """The limit applies to compressed and uncompressed bodies, and the request is not repeated."""
    reply = make_reply()
    with JudgeServer(lambda question: "A", lambda *request: reply) as server:
        judge = ServerJudge(replace(judging, base_url=server.url, max_retries=3))
        tracemalloc.start()
        with pytest.raises(InputError, match=r"with 502 an answer of more than 1000000 bytes, see judge\.max_answer_b"):
            judge_pairs(judge, *PAIR)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert set(server.attempts.values()) == {1}
    assert peak < 20 * MEGABYTE


def test_unsupported_content_encodings_are_refused(judging):
    """Bodies are decompressed at most once, and only with methods whose output can be limited."""
    for encoding, body in (("gzip, gzip", gzip.compress(b"{}")), ("br", b"A"), ("gzip", b"no gzip")):
        with pytest.raises(InputError, match="with 502 (an unknown content-encoding|a body that is not gzip)"):
            judge_once(judging, Reply(200, body, {"content-encoding": encoding}))


def test_byte_limit_is_configurable(judging):
    reply = Reply(200, completion("x" * 2 * MEGABYTE + "\n\nFinal answer: tie"))
    judgment, _ = judge_once(replace(judging, max_answer_bytes=3_000_000), reply)
    assert judgment.outcome == "tie"


def test_compressed_answer_is_read(judging):
    judgment, _ = judge_once(judging, Reply(200, gzip.compress(completion("A").encode()), {"content-encoding": "gzip"}))
    assert judgment.outcome == "tie"


def test_long_answer_is_stored_without_its_middle(judging):
    """The cache stores KEPT characters and rows store 1,000. The cached answer gives the same verdict."""
    reply = Reply(200, completion("thoughts " * 50_000 + "\n\nFinal answer: A"))
    with JudgeServer(lambda question: "B", lambda *request: reply) as server:
        settings = replace(judging, base_url=server.url)
        for _ in range(2):
            (judgment,) = judge_pairs(ServerJudge(settings), *PAIR)
            assert (judgment.first, judgment.second) == (1.0, 0.0)
            assert max(len(text) for text, _ in raw_answers(judgment)) <= 1000
    assert {len(json.loads(path.read_text())["answer"]) for path in judging.cache.rglob("*.json")} == {KEPT - 1}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(judging, status):
    """The other server receives nothing, and the one-line error names both servers."""
    with JudgeServer(lambda question: "A") as other:
        reply = Reply(status, "", {"location": f"http://me:pass@127.0.0.1:{other.port}/v1/chat/completions"})
        with JudgeServer(lambda question: "A", lambda *request: reply) as server, pytest.raises(InputError) as caught:
            judge_pairs(ServerJudge(replace(judging, base_url=server.url, max_retries=3)), *PAIR)
    assert f"judge at {server.url}: " in str(caught.value)
    assert f"{status} redirect to 127.0.0.1:{other.port}; redirects are not followed" in str(caught.value)
    assert "pass" not in str(caught.value) and "\n" not in str(caught.value)
    assert not other.bodies
    assert set(server.attempts.values()) == {1}


@pytest.mark.parametrize("charset", ["zlib", "base64", "undefined", "idna", "utf-16", "latin-1", "\\udc80", "x" * 999])
def test_charset_header_is_ignored(judging, charset):
    """JSON in answers and errors is read as UTF-8, independent of the header."""
    header = {"content-type": f"application/json; charset={charset}"}
    judgment, _ = judge_once(judging, Reply(200, completion("é A é\n\nFinal answer: tie"), header))
    assert [answer.text for answer in judgment.answers] == ["é A é\n\nFinal answer: tie"] * 2
    with pytest.raises(InputError, match="the first with 500 Internal Server Error: é"):
        judge_once(judging, Reply(500, json.dumps({"error": {"message": "é"}}, ensure_ascii=False), header))


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ('{"prompt_tokens": 1e400, "completion_tokens": -1000000000000000000}', (2**53, 0)),
        ('{"prompt_tokens": NaN, "completion_tokens": "many"}', (0, 0)),
        ('{"prompt_tokens": 1' + "0" * 400 + ', "completion_tokens": [2]}', (2**53, 0)),
        ('{"prompt_tokens": -Infinity, "completion_tokens": 7.0}', (0, 7)),
        ("null", (0, 0)),
    ],
)
def test_token_counts_are_bounded(judging, usage, counts):
    """Counts are limited to the range from 0 to 2^53, and the answer is used."""
    body = f'{{"choices": [{{"message": {{"content": "A"}}}}], "usage": {usage}}}'
    judgment, judge = judge_once(judging, Reply(200, body))
    assert judgment.answers[0].probability == 1.0
    assert (judge.usage.tokens_in, judge.usage.tokens_out) == (2 * counts[0], 2 * counts[1])


@pytest.mark.parametrize("body", ["[" * 100_000 + "]" * 100_000, '{"choices": ' + "9" * 5000 + "}", "\x00", "[]"])
def test_invalid_bodies_raise_with_one_line(judging, body):
    """Covers deep JSON, huge integers and invalid JSON, with success and error statuses."""
    for status, reason in ((200, "502 no chat completion"), (500, "500 Internal Server Error")):
        with pytest.raises(InputError, match=f"2 of 2 requests failed, the first with {reason}") as caught:
            judge_once(judging, Reply(status, body))
        assert str(caught.value).isprintable()


def test_lone_surrogates_can_be_written(judging, tmp_path):
    """They may be in an answer, in a refusal of one question, or in a cached answer."""
    body = '{"choices": [{"message": {"content": "A\\ud800"}}]}'
    refusal = Reply(400, '{"error": {"message": "no \\udfff"}}')

    def refuse_one(question, attempt, headers):
        return refusal if question.startswith("p|first") else Reply(200, body)

    with JudgeServer(lambda question: "A", refuse_one) as server:
        settings = replace(judging, base_url=server.url)
        (judgment,) = judge_pairs(ServerJudge(settings), *PAIR)
        assert [answer.text for answer in judgment.answers] == ["400 Bad Request: no ?", "A?"]
        write_rows(tmp_path / "rows.jsonl", [{"answers": raw_answers(judgment)}])
        for path in judging.cache.rglob("*.json"):
            path.write_text(path.read_text().replace("A?", "A\\ud800"))
        (judgment,) = judge_pairs(ServerJudge(settings), *PAIR)
        write_rows(tmp_path / "rows.jsonl", [{"answers": raw_answers(judgment)}])


@pytest.mark.parametrize("count", [-(10**18), 10**18, 1.5, None])
def test_cached_count_out_of_bounds_raises(tmp_path, count):
    """A shared cache is checked like a server's answer."""
    cache = AnswerCache(Path(tmp_path), "http://x/v1")
    cache.write({"a": 1}, {"answer": "A", "prompt_tokens": count, "completion_tokens": 1})
    with pytest.raises(InputError, match=r"\.json: not a judge's answer; delete it to ask again"):
        cache.read({"a": 1})
