"""Random HTTP responses of a judge server, sent by a real server: a judgment or a one-line error.

CI runs the same examples each time. For more, random examples: FUZZ_EXAMPLES=20000 pytest tests/unit -k fuzz
"""

import gzip
import json
import shutil
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge_server import completion
from local_server import LocalServer, QuietHandler
from mutations import as_json, fuzzing, is_short_line, mutated, torn
from prefloop.config.feedback_settings import Judging
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.feedback.annotate import raw_answers
from prefloop.feedback.judgments import judge_pairs
from prefloop.feedback.server_judge import ServerJudge

PAIR = [[{"role": "user", "content": "p"}]], ["first"], ["second"]
STATUSES = ["200 OK"] * 8 + ["200", "200 \t", "201 Created", "204 No Content", "206 Partial", "304 Not Modified"]
STATUSES += ["100 Continue", "101 Switching Protocols", "103 Early Hints", "301 Moved", "307 Temporary", "400 Bad"]
STATUSES += ["401 No", "403 No", "404 Not Found", "408 Timeout", "409 Conflict", "413 Large", "422 No", "429 Slow"]
STATUSES += ["500 Error", "502 Bad", "503 Busy", "599 x", "600 x", "999 x", "000 x", "2e2 OK", "-1 x", "20", ""]
STATUSES += ["500 \x1b[31m", "500 é", "500 " + "x" * 3000, "200 OK\r\nHTTP/1.1 200 OK"]
HEADERS = [
    b"Content-Type: application/json",
    b"Content-Type: text/event-stream",
    b"Content-Type: text/html; charset=utf-7",
    b"Content-Type: application/json; charset=utf-16",
    b"Content-Type: \xff",
    b"Content-Encoding: gzip",
    b"Content-Encoding: deflate",
    b"Content-Encoding: br",
    b"Content-Encoding: gzip, gzip",
    b"Content-Length: 0",
    b"Content-Length: -1",
    b"Content-Length: 1e3",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 7, 7",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Connection: keep-alive, close",
    b"Connection: upgrade",
    b"Upgrade: h2c",
    b"Location: http://127.0.0.1:1/v1/chat/completions",
    b"Location: ://",
    b"Location: \xff",
    b"Location: http://[::1",
    b"Location: http://" + b"a" * 3000,
    b"Retry-After: 1e400",
    b"Retry-After: Wed, 99 Nov 2026 99:99:99 GMT",
    b"Retry-After-Ms: nan",
    b"X-Should-Retry: true",
    b"X-Request-Id: \x1b[31m",
    b"Set-Cookie: a=b; Max-Age=99999999999999999999",
    b"no colon",
    b": no name",
    b" folded",
    b"A\x00: b",
    b"X: " + b"x" * 200_000,
    b"\r\nX: y",
]
ERRORS = [{"error": {"message": "no"}}, {"error": "no"}, {"error": [1]}, [{"error": {}}], {"message": "\x1b[31m\n"}]


class RawServer(LocalServer):
    """Answers each request with the bytes `reply` and closes the connection."""

    reply = b""

    def __init__(self) -> None:
        server = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.wfile.write(server.reply)
                self.close_connection = True

        super().__init__(Handler)


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield server


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draw the body of a chat completion or an error: valid, mutated, torn, compressed, or in another encoding."""
    valid = draw(st.sampled_from([json.loads(completion("A"))] * 3 + ERRORS))
    how = draw(st.sampled_from(["valid", "mutated", "torn"]))
    text = as_json(draw(mutated(valid)) if how == "mutated" else valid)
    text = draw(torn(text)) if how == "torn" else text
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])), errors="replace")
    return draw(st.sampled_from([bytes, bytes, gzip.compress, zlib.compress]))(content)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """Draw a chunked body, in which a chunk may declare a wrong size."""
    size = draw(st.integers(1, max(1, len(body))))
    parts = [body[start : start + size] for start in range(0, len(body), size)][:50]
    wrong = draw(st.sampled_from([b""] * 6 + [b"1", b"f" * 17, b"-1", b";x=y", b" ", b"z", b"\r\n"]))
    lengths = [b"%x" % len(part) for part in parts]
    if lengths:
        lengths[draw(st.integers(0, len(lengths) - 1))] += wrong
    end = draw(st.sampled_from([b"0\r\n\r\n"] * 3 + [b"", b"0\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n\r\nmore"]))
    return b"".join(b"%s\r\n%s\r\n" % chunk for chunk in zip(lengths, parts, strict=True)) + end


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """Draw the bytes of a response, possibly cut or repeated."""
    body = draw(bodies())
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    framing = draw(st.sampled_from(["length", "length", "chunks", "close"]))
    if framing == "chunks":
        headers, body = [*headers, b"Transfer-Encoding: chunked"], draw(chunked(body))
    elif framing == "length":
        off = draw(st.sampled_from([0] * 8 + [-1, 1, 1000]))
        headers.append(b"Content-Length: %d" % (len(body) + off))
    version = draw(st.sampled_from(["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/2", "HTTP/9.9", "ICY", "http/1.1", ""]))
    start = f"{version} {draw(st.sampled_from(STATUSES))}".encode()
    reply = b"\r\n".join([start, *headers, b"", body])
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, min(len(reply), 300)))
        reply = draw(st.sampled_from([reply[:at], reply[:at] + b"\x00\xff\r\n" + reply[at:], reply * 2]))
    return reply


def test_fuzzed_responses(server, tmp_path):
    """Judgments can be written, errors are one line, and no example reaches the limits of time and memory."""
    (tmp_path / "short.txt").write_text("{conversation}|{response_a}|{response_b}\n")
    settings = Judging(
        template=tmp_path / "short.txt",
        model="judge",
        cache=tmp_path / "cache",
        base_url=f"{server.url}/v1",
        timeout=3.0,
        max_retries=0,
    )

    @given(reply=replies())
    @fuzzing(400)
    def check(reply):
        server.reply = reply
        shutil.rmtree(settings.cache, ignore_errors=True)
        try:
            (judgment,) = judge_pairs(ServerJudge(settings), *PAIR)
            write_rows(tmp_path / "rows.jsonl", [{"answers": raw_answers(judgment)}])
        except InputError as error:
            assert is_short_line(str(error)), str(error)

    check()
