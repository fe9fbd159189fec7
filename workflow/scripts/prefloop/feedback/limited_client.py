"""An HTTP client for a judge's server, which limits time and size and does not follow redirects."""

import asyncio
import zlib
from typing import Any

import httpx2
from openai import DefaultAsyncHttpxClient

from prefloop.feedback.completions import read_completion

KEPT_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
NO_RETRY = {"x-should-retry": "false"}
GZIP = 32 + zlib.MAX_WBITS  # value with which zlib accepts a gzip or zlib header


class UnreadableBodyError(Exception):
    """A body could not be read completely. The message is the reason."""


class LimitedClient(DefaultAsyncHttpxClient):
    """An HTTP client that reads responses as JSON in UTF-8, regardless of their headers.

    `seconds` limits the time of the whole exchange, so a server that sends one byte per second cannot prolong it.
    `max_bytes` limits the size of the unpacked body. A redirect is an error, because the question would go to another
    server. A successful response that is not a chat completion becomes a 502 error, which openai's client retries. A
    body that is too large is not requested again.
    """

    def __init__(self, seconds: float, max_bytes: int, **options: Any) -> None:
        super().__init__(follow_redirects=False, headers={"accept-encoding": "gzip"}, **options)
        self.seconds, self.max_bytes = seconds, max_bytes

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request and read the whole response.

        Raises:
            httpx2.ReadTimeout: The response is not complete after `seconds`.
        """
        try:
            async with asyncio.timeout(self.seconds):
                response = await super().send(request, **options | {"stream": True})
                try:
                    body = await self.read_body(response)
                except UnreadableBodyError as error:
                    return rebuilt(response, b"", 502, str(error), NO_RETRY)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no complete response in time", request=request) from error
        if response.next_request is not None:
            target = response.next_request.url
            return rebuilt(response, b"", response.status_code, f"redirect to {target.netloc.decode()}", NO_RETRY)
        if response.is_success:
            try:
                read_completion(body.decode(errors="replace"))
            except ValueError:
                return rebuilt(response, body, 502, "no chat completion")
        return rebuilt(response, body, response.status_code, response.reason_phrase)

    async def read_body(self, response: httpx2.Response) -> bytes:
        """The unpacked body; UnreadableBodyError if it is too large or its encoding is unknown or invalid."""
        too_large = f"an answer of more than {self.max_bytes} bytes, see judge.max_answer_bytes"
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self.max_bytes:
                raise UnreadableBodyError(too_large)
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding == "identity":
            return bytes(body)
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise UnreadableBodyError("an unknown content-encoding, expected gzip or none")
        try:
            unpacked = zlib.decompressobj(GZIP).decompress(body, self.max_bytes + 1)
        except zlib.error as error:
            raise UnreadableBodyError(f"a body that is not {encoding}") from error
        if len(unpacked) > self.max_bytes:
            raise UnreadableBodyError(too_large)
        return unpacked


def rebuilt(
    response: httpx2.Response, body: bytes, status: int, reason: str, headers: dict[str, str] | None = None
) -> httpx2.Response:
    """A response with a new body, status and reason. Only the headers in KEPT_HEADERS are kept."""
    kept_headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    return httpx2.Response(
        status,
        headers=kept_headers | {"content-type": "application/json"} | (headers or {}),
        content=body,
        request=response.request,
        extensions={"reason_phrase": reason.encode("ascii", "replace")},
    )
