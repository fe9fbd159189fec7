"""A judge's server to test against: real HTTP in OpenAI's format, with the troubles real ones make."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

SOON = {"retry-after-ms": "5"}  # what the client is told to wait, so that tests do not


class Reply(NamedTuple):
    """What goes out instead of an answer; after `stall` seconds, in which a client may give up."""

    status: int
    body: str = ""
    headers: dict = {}
    stall: float = 0.0


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


class JudgeServer:
    """Answers POST /v1/chat/completions with what `answer` says to a question, unless `trouble` has another Reply.

    Counts by question: `attempts`, and `answered`, those that got an answer. `peak` is the most requests it had
    under way at once, each for `pause` seconds at least. `bodies` are the requests as they came.
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

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet, or the client's kernel makes each answer wait for 40 ms

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                reply = judge.reply_to(body, self.headers) if self.path == "/v1/chat/completions" else Reply(404)
                time.sleep(reply.stall)
                data = reply.body.encode()
                self.send_response(reply.status)
                for name, value in {"content-type": "application/json", "content-length": len(data)}.items():
                    self.send_header(name, str(value))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

            def handle_error(self, request, client_address):
                pass  # clients that hang up are part of the test

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def reply_to(self, body: dict, headers) -> Reply:
        question = body["messages"][0]["content"]
        with self.lock:
            self.bodies.append(body)
            attempt = self.attempts[question]
            self.attempts[question] += 1
            self.active += 1
            self.peak = max(self.peak, self.active)
        reply = self.trouble(question, attempt, headers)
        time.sleep(self.pause)
        with self.lock:  # before anything goes out: the client's next request may come at once
            self.active -= 1
            if reply is None:
                self.answered[question] += 1
                reply = Reply(200, completion(self.answer(question)))
        return reply

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.die()

    def die(self) -> None:
        self.server.shutdown()
        self.server.server_close()
