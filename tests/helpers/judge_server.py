"""A fake judge server: OpenAI's HTTP format, with the failures of real servers."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from local_server import LocalServer, QuietHandler

SOON = {"retry-after-ms": "5"}  # a short wait before the client retries, so that tests are fast


class Reply(NamedTuple):
    """A response sent instead of an answer, after `stall` seconds, during which a client may give up.

    `parts` replace the body and are sent one by one until they end or the client hangs up.
    """

    status: int
    body: str | bytes = ""
    headers: dict = {}
    stall: float = 0.0
    parts: Iterable[bytes] | None = None


def completion(words: str | None) -> str:
    message = {"role": "assistant", "content": words}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "judge",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102},
        }
    )


def no_trouble(question: str, attempt: int, headers) -> None:
    return None


class JudgeServer(LocalServer):
    """Answers POST /v1/chat/completions with `answer(question)`, unless `trouble` returns another Reply.

    `attempts` and `answered` count requests and answers per question. `peak` is the largest number of simultaneous
    requests. Each request takes at least `pause` seconds. `bodies` has the request bodies in order.
    """

    def __init__(
        self,
        answer: Callable[[str], str | None],
        trouble: Callable[..., Reply | None] = no_trouble,
        pause: float = 0.0,
        port: int = 0,
    ):
        self.answer, self.trouble, self.pause = answer, trouble, pause
        self.attempts, self.answered, self.bodies = Counter(), Counter(), []
        self.active = self.peak = 0
        self.lock = threading.Lock()
        judge = self

        class Handler(QuietHandler):
            wbufsize = -1  # head and body in one packet; two packets would delay each answer by 40 ms

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                reply = judge.reply_to(body, self.headers) if self.path == "/v1/chat/completions" else Reply(404)
                time.sleep(reply.stall)
                data = reply.body.encode() if isinstance(reply.body, str) else reply.body
                length = {"content-length": len(data)} if reply.parts is None else {"connection": "close"}
                self.send_response(reply.status)
                for name, value in ({"content-type": "application/json"} | length | reply.headers).items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(data)
                for part in reply.parts or ():
                    self.wfile.write(part)
                    self.wfile.flush()

        super().__init__(Handler, port)
        self.url += "/v1"

    def reply_to(self, body: dict, headers) -> Reply:
        question = body["messages"][-1]["content"]
        with self.lock:
            self.bodies.append(body)
            attempt = self.attempts[question]
            self.attempts[question] += 1
            self.active += 1
            self.peak = max(self.peak, self.active)
        reply = self.trouble(question, attempt, headers)
        time.sleep(self.pause)
        with self.lock:  # before the answer is sent, because the client may send its next request immediately
            self.active -= 1
            if reply is None:
                self.answered[question] += 1
                reply = Reply(200, completion(self.answer(question)))
        return reply
