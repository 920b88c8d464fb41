"""What stands before the endpoints: the token, and limits of connections and of bodies that are read."""

import asyncio
import hmac
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_BYTES = 25_000_000  # of a body
CONNECTIONS = 200
_BODIES = 32  # that are read at a time; beyond 1 MB they are in temporary files
_HEADER_S = 10  # from the connection, or the last answer, to the end of a request's header
_BODY_S = 30
# paths that need no token: the page asks for it, and so does the documentation
_OPEN = ("/", "/healthz", "/docs", "/openapi.json")
_OPEN_UNDER = "/static-offline-docs/"


class ImpatientProtocol(H11Protocol):
    """HTTP that closes connections on which no request comes in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._timer.cancel()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(_HEADER_S, self._close_unless_new, self.cycle)

    def _close_unless_new(self, last: Any) -> None:
        if self.cycle is last:
            self.transport.close()


class Guard:
    """ASGI middleware: 401 without the token, 413 and 408 for bodies that are too large or too slow, 503 beyond
    _BODIES."""

    def __init__(self, app: ASGIApp, token: str | None):
        self._app, self._token, self._reading = app, token, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._allowed(scope["path"], headers):
            problem = JSONResponse(
                {"error": "send the service's token: Authorization: Bearer TOKEN"}, 401, {"WWW-Authenticate": "Bearer"}
            )
            await problem(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        elif self._reading >= _BODIES:
            problem = JSONResponse({"error": "too many uploads at a time; try again"}, 503, {"Retry-After": "2"})
            await problem(scope, receive, send)
        else:
            length = headers.get(b"content-length", b"0")
            body = _Body(receive, int(length) if length.isdigit() else 0)
            self._reading += 1

            async def read() -> Message:
                message = await body.receive()
                if body.done and not body.counted:
                    body.counted, self._reading = True, self._reading - 1
                return message

            try:
                await self._app(scope, read, send)
            finally:
                if not body.counted:
                    self._reading -= 1

    def _allowed(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if self._token is None or path in _OPEN or path.startswith(_OPEN_UNDER):
            return True
        given = headers.get(b"authorization", b"")
        return hmac.compare_digest(given, f"Bearer {self._token}".encode())


class _Body:
    """A request's body, within MAX_BYTES and _BODY_S."""

    def __init__(self, receive: Receive, length: int):
        self._receive, self._length, self._bytes = receive, length, 0
        self._until = asyncio.get_running_loop().time() + _BODY_S
        self.done = self.counted = False

    async def receive(self) -> Message:
        if self.done:
            return await self._receive()
        if self._length > MAX_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the photo did not arrive within {_BODY_S} s; send it again") from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > MAX_BYTES:
            raise _too_large()
        self.done = not message.get("more_body", False)
        return message


def _too_large() -> HTTPException:
    return HTTPException(413, f"the request is too large; send at most {MAX_BYTES / 1e6:.0f} MB, a photo and its texts")
