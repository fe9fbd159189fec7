"""A judge that is a language model on an OpenAI-compatible server. Its answers are cached on disk."""

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.config.feedback_settings import ADDRESS, NO_SECRETS, Judging
from prefloop.config.prompt_settings import ChatConfig
from prefloop.core.costs import Usage
from prefloop.core.errors import InputError, SettingError, short_repr
from prefloop.core.files import read_json, write_json
from prefloop.core.progress import Progress
from prefloop.feedback.answers import Answer, parse_answer
from prefloop.feedback.completions import MAX_TOKENS, read_completion, without_surrogates
from prefloop.feedback.judgments import Question, read_template, render, shortened
from prefloop.feedback.model_chat import with_system

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI, OpenAIError

# After this many failures in a row, no more requests are sent, because the server is down or rejects the key.
MAX_FAILURES_IN_A_ROW = 16
KEPT = 100_000  # maximum characters of a cached answer; the middle of a longer one is removed
# Statuses for which a retry would not help: the question may be too long, or a setting may be wrong.
REJECTED = (400, 413, 422)
# Remedies if requests fail, by status or kind of error.
REMEDIES = {
    **dict.fromkeys(("401", "403"), "the key comes from the environment variable {api_key_env}"),
    "404": "judge.base_url goes up to and including /v1, and judge.model is a name that the server lists there under "
    "/models",
    **dict.fromkeys(
        ("400", "413", "422"),
        "judge.request drops, renames or adds fields, such as request: {{drop: [temperature], rename: {{max_tokens: "
        "max_completion_tokens}}}}",
    ),
    **dict.fromkeys(
        ("301", "302", "303", "307", "308"),
        "redirects are not followed: if you know that server, write its address into judge.base_url",
    ),
    "APITimeoutError": "judge.timeout allows {timeout:g} seconds for a whole answer: raise it, or lower "
    "judge.concurrency",
}


@dataclass
class ServerReplies:
    """A server's replies to a batch of question texts."""

    answers: dict[str, dict] = field(default_factory=dict)
    """Answers by question text, as `AnswerCache` stores them."""
    rejections: dict[str, str] = field(default_factory=dict)
    """Reasons of rejections by question text."""
    failures: list[str] = field(default_factory=list)
    """Reasons of failed requests."""
    failures_in_a_row: int = 0
    unsent: int = 0
    """Requests that were not sent, because too many had failed in a row."""


def check_address(address: str) -> None:
    """Check the address of a server. Addresses in a config have been checked before; others have not.

    Raises:
        SettingError: The address is invalid or may contain a key.
    """
    try:
        ADDRESS.check(address)
    except ValueError as error:
        has_secret = set(address) & set("?#@")
        problem = NO_SECRETS if has_secret else f"{short_repr(address)}, expected {error}"
        raise SettingError(f"judge.base_url: {problem}") from None


class ServerJudge:
    """A `Judge` that asks a server and never asks the same question twice.

    Each answer is stored in a file, so a failed or killed run continues where it stopped. If a request fails after all
    retries, `compare` raises InputError after the other requests have ended. If the server rejects a question but
    answers others with the same settings, the question gets an invalid answer, which is not cached. If the server
    rejects all questions, a setting is wrong, and `compare` raises InputError. The key is sent only to the server.

    `usage.requests` counts requests that were sent (`asked`), sent again (`retried`) and not necessary (`cached`).
    `usage` counts the tokens of all answers, including cached ones, so an interruption does not change them.
    """

    batch_size: int | None = None
    tie_margin = 0.0

    def __init__(self, settings: Judging, chat: ChatConfig | None = None) -> None:
        if not settings.base_url or not settings.model:
            missing = "model" if settings.base_url else "base_url"
            raise SettingError(f"judge.{missing}: missing; a server as judge needs an address and a model name")
        check_address(settings.base_url)
        self.settings, self.template = settings, read_template(settings.template)
        self.chat_config = chat or ChatConfig()
        self.key = read_key(settings.api_key_env)
        self.cache = AnswerCache(settings.cache, settings.base_url)
        self.usage = Usage("server", requests={"asked": 0, "cached": 0, "retried": 0})

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question: 1, 0 or 0.5 if the server answers A, B or tie, or an invalid answer.

        Raises:
            InputError: A request failed, or the server rejected all of them. All answers remain in the cache.
        """
        texts_of_questions = [render(self.template, question) for question in questions]
        texts = list(dict.fromkeys(texts_of_questions))
        cached = {text: answer for text in texts if (answer := self.cache.read(self.request(text)))}
        missing = [text for text in texts if text not in cached]
        self.usage.requests["cached"] += len(texts) - len(missing)
        replies = asyncio.run(self.ask(missing)) if missing else ServerReplies()
        if replies.rejections and not replies.answers and not self.still_answers(cached):
            replies.failures += replies.rejections.values()
        if replies.failures:
            raise InputError(self.failure_message(replies.failures, len(missing), replies.unsent))
        answers = cached | replies.answers
        self.usage.tokens_in += sum(answer["prompt_tokens"] for answer in answers.values())
        self.usage.tokens_out += sum(answer["completion_tokens"] for answer in answers.values())
        parsed = {text: parse_completion(answer) for text, answer in answers.items()}
        parsed |= {text: Answer(None, reason, "refused") for text, reason in replies.rejections.items()}
        return [parsed[text] for text in texts_of_questions]

    def still_answers(self, cached: Mapping[str, dict]) -> bool:
        """Whether the server still answers a question whose answer is cached.

        If it does, rejections are about the questions. If it does not, they are about the settings.
        """
        return bool(cached) and bool(asyncio.run(self.ask([next(iter(cached))], keep=False)).answers)

    def failure_message(self, failures: Sequence[str], requests: int, unsent: int) -> str:
        """The error message for a batch of requests: what failed and how to continue."""
        hints = [f"; {unsent} were not sent, because no request succeeded any more"] if unsent else []
        if remedy := REMEDIES.get(failures[0].split()[0]):
            hints.append("; " + remedy.format(api_key_env=self.settings.api_key_env, timeout=self.settings.timeout))
        return (
            f"judge at {self.settings.base_url}: {len(failures)} of {requests} requests failed, the first with "
            f"{failures[0]}{''.join(hints)}{'. Is the server running?' if failures[0] == 'APIConnectionError' else '.'}"
            f" Answers are kept in {self.settings.cache}: running again continues with those that are missing"
        )

    async def ask(self, texts: Sequence[str], keep: bool = True) -> ServerReplies:
        """Send one request per text, at most `concurrency` at a time. With `keep`, cache the answers as they arrive."""
        from openai import AsyncOpenAI

        from prefloop.feedback.limited_client import LimitedClient

        silence_http_logs()
        client = AsyncOpenAI(
            base_url=self.settings.base_url,
            api_key=self.key or "none",  # the client requires one
            timeout=self.settings.timeout,
            max_retries=self.settings.max_retries,
            http_client=LimitedClient(
                self.settings.timeout,
                self.settings.max_answer_bytes,
                event_hooks={"request": [self.count_retry]},
            ),
        )
        replies, slots = ServerReplies(), asyncio.Semaphore(self.settings.concurrency)
        max_failures = max(MAX_FAILURES_IN_A_ROW, 2 * self.settings.concurrency)
        with Progress("judge", len(texts), "request") as progress:

            async def ask_in_slot(text: str) -> None:
                async with slots:
                    if replies.failures_in_a_row >= max_failures:
                        replies.unsent += 1
                        return
                    await self.ask_one(client, text, replies, keep)
                progress.update()

            async with client:
                await asyncio.gather(*map(ask_in_slot, texts))
        return replies

    async def ask_one(self, client: "AsyncOpenAI", text: str, replies: ServerReplies, keep: bool) -> None:
        """Send one request and add its answer, rejection or failure to `replies`."""
        from openai import OpenAIError

        self.usage.requests["asked"] += 1
        fields = self.request(text)
        required = {name: fields.pop(name) for name in ("model", "messages")}
        try:
            response = await client.chat.completions.with_raw_response.create(**required, extra_body=fields)
        except OpenAIError as error:
            if getattr(error, "status_code", None) in REJECTED:
                replies.rejections[text] = describe_error(error, self.key)
            else:
                replies.failures.append(describe_error(error, self.key))
                replies.failures_in_a_row += 1
        else:
            answer = read_completion(response.text)
            answer["answer"] = shortened(redact(answer["answer"], self.key), KEPT)
            replies.answers[text] = answer
            if keep:
                await asyncio.to_thread(self.cache.write, self.request(text), answer)  # waits for the disk
            replies.failures_in_a_row = 0

    def request(self, text: str) -> dict[str, Any]:
        """The fields of a request. Together with the server's address they identify a cached answer."""
        options = self.settings.request
        names: dict[str, str] = {"max_tokens": "max_tokens", "temperature": "temperature"} | dict(options.rename)
        fields = {"max_tokens": self.settings.max_tokens, "temperature": 0.0}
        sent: dict[str, Any] = {names[name]: value for name, value in fields.items() if name not in options.drop}
        if self.chat_config.chat_template_kwargs:
            sent["chat_template_kwargs"] = self.chat_config.chat_template_kwargs
        messages = with_system([{"role": "user", "content": text}], self.chat_config)
        return {"model": self.settings.model, "messages": messages} | sent | options.extra

    async def count_retry(self, request: "httpx2.Request") -> None:
        self.usage.requests["retried"] += request.headers.get("x-stainless-retry-count", "0") != "0"


@dataclass
class AnswerCache:
    """Answers of a server on disk: one file per request, named by a hash of the request and the server's address."""

    folder: Path
    base_url: str

    def path(self, request: dict) -> Path:
        content = {"base_url": self.base_url.rstrip("/"), **request}
        name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return Path(self.folder) / name[:2] / f"{name}.json"

    def read(self, request: dict) -> dict | None:
        """The cached answer, or None. Refusals, which earlier versions stored, are ignored.

        Raises:
            InputError: The file is not an answer.
        """
        path = self.path(request)
        if not path.is_file():
            return None
        answer, types = read_json(path), {"answer": str, "prompt_tokens": int, "completion_tokens": int}
        is_answer = all(isinstance(answer.get(name), kind) for name, kind in types.items())
        if not is_answer or not all(0 <= answer[name] <= MAX_TOKENS for name in ("prompt_tokens", "completion_tokens")):
            raise InputError(f"{path}: not a judge's answer; delete it to ask again")
        answer["answer"] = without_surrogates(answer["answer"])
        return None if "refused" in answer else answer

    def write(self, request: dict, answer: dict) -> None:
        write_json(self.path(request), answer, durable=True)


def describe_error(error: "OpenAIError", key: str) -> str:
    """The status and message of the response to a failed request, or the kind of error if there was no response."""
    from openai import APIStatusError

    if not isinstance(error, APIStatusError):
        return type(error).__name__
    message = error.body.get("message") if isinstance(error.body, dict) else error.body
    message = f": {message}" if isinstance(message, str) and message else ""
    text = without_surrogates(f"{error.status_code} {error.response.reason_phrase}{message}")
    return " ".join(redact(text, key).split())[:200]


def redact(text: str, key: str) -> str:
    return text.replace(key, "[key]") if key else text


def read_key(variable: str) -> str:
    """The API key in an environment variable; empty if it is not set."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(
            f"environment variable {variable}: not a key, it has spaces or characters that headers cannot have"
        )
    return key


def parse_completion(answer: dict) -> Answer:
    """Parse an answer that `AnswerCache` stores. Those of earlier versions have no `finish_reason`."""
    return parse_answer(answer["answer"], answer.get("finish_reason", "stop"), answer.get("has_reasoning", False))


def silence_http_logs() -> None:
    """Keep requests, headers and bodies out of the logs at every log level."""
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
