"""The HTTP client of a judge's server: whole responses within limits of time and size, from that server alone."""

import asyncio
import zlib
from typing import Any

import httpx2
from openai import DefaultAsyncHttpxClient

from prefloop.feedback.completions import read_completion

KEPT_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
NO_RETRY = {"x-should-retry": "false"}
GZIP = 32 + zlib.MAX_WBITS  # zlib's number for a gzip or zlib header


class UnreadableBodyError(Exception):
    """A body that is not read to its end; the message says why."""


class LimitedClient(DefaultAsyncHttpxClient):
    """Returns each response as JSON in UTF-8, whatever its headers say, within `seconds` and `max_bytes`.

    The time is that of the whole exchange, so a server that sends one byte per second does not prolong it. A redirect
    is an error, as the question would go to another server. A success that is no chat completion becomes a bad
    gateway, which openai's client retries; a body that is too large is not requested again.
    """

    def __init__(self, seconds: float, max_bytes: int, **options: Any) -> None:
        super().__init__(follow_redirects=False, headers={"accept-encoding": "gzip"}, **options)
        self.seconds, self.max_bytes = seconds, max_bytes

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request and read the whole response.

        Raises:
            httpx2.ReadTimeout: There is no whole response after `seconds`.
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
            raise httpx2.ReadTimeout("no whole response in time", request=request) from error
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
        """The unpacked body; UnreadableBodyError if it is larger than allowed or packed in an unknown way."""
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
    """A response with another body, status and reason; of its headers, those about retries are kept."""
    kept = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    return httpx2.Response(
        status,
        headers=kept | {"content-type": "application/json"} | (headers or {}),
        content=body,
        request=response.request,
        extensions={"reason_phrase": reason.encode("ascii", "replace")},
    )
