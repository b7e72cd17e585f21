"""Answers as Docker's clients expect them: the content type of JSON is compared for equality."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

JSON = "application/json"


def encode(body: object) -> bytes:
    """Render one JSON document with its newline."""
    return msgspec.json.encode(body) + b"\n"


def answer(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with a JSON document."""
    return web.Response(
        body=encode(body), status=status, headers={"Content-Type": JSON, **(headers or {})}
    )


def failure(status: int, message: str) -> web.Response:
    """Answer with Docker's error document."""
    return answer({"message": message}, status)


def nothing(status: int = 204) -> web.Response:
    """Answer without a body."""
    return web.Response(status=status)


class JsonLines:
    """A chunked 200 of JSON documents, CRLF between them; the head goes out with the first."""

    def __init__(self, request: web.Request, end: bytes = b"\r\n") -> None:
        self._request = request
        self._end = end
        self._response: web.StreamResponse | None = None

    @property
    def begun(self) -> bool:
        """Whether the status line is out, and errors must travel inside the stream."""
        return self._response is not None

    async def begin(self) -> web.StreamResponse:
        """Send the head."""
        if self._response is None:
            self._response = web.StreamResponse(headers={"Content-Type": JSON})
            self._response.enable_chunked_encoding()
            await self._response.prepare(self._request)
        return self._response

    async def send(self, body: Mapping[str, Any]) -> None:
        """Send one document."""
        response = await self.begin()
        await response.write(msgspec.json.encode(body) + self._end)

    async def fail(self, message: str, code: int = 0) -> None:
        """Send Docker's in-stream error."""
        detail: dict[str, Any] = {"message": message}
        if code:
            detail["code"] = code
        await self.send({"errorDetail": detail, "error": message})

    async def finish(self) -> web.StreamResponse:
        """End the stream."""
        response = await self.begin()
        await response.write_eof()
        return response
