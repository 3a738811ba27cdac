"""What every request passes first: who may call, from where, with how much, and the log line it leaves."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from traceback import extract_tb

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gemlet.serve.errors import OLLAMA, ApiError
from gemlet.serve.running import Current, Running

KEYED = ("/v1/", OLLAMA, "/tokenize", "/detokenize", "/apply-template")
"""What a key is needed for: all but the page, which asks for one, and what supervisors ask."""

MAX_BODY = 8 << 20
"""Bytes of a request: more text than any context holds."""


OTHER = "other"
"""Counted as the route of what no route answers, and of what is refused before one is looked for."""


REQUEST_ID = "x-request-id"
"""The header that an answer and its log line share. The client's own is kept."""

_OWN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class BodyTooLarge(Exception):
    """A body went beyond its limit while it was read."""


@dataclass(frozen=True)
class Rules:
    """`keys`: none lets everybody in. `hosts`: names that the server may be called by; a page of another
    site, whose name was made to lead here, is refused. `max_body` in bytes. `deadline`: seconds that a
    request may take; None for any.
    """

    keys: Sequence[str] = ()
    hosts: Sequence[str] = ("127.0.0.1", "localhost", "[::1]")
    max_body: int = MAX_BODY
    deadline: float | None = None


class Guard:
    """Refuses in the API's form what must not reach the application. `log` gets a JSON line for each.

    `answered` is told the route and the status of each request. `running` are those under way.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        log: Callable[[str], None],
        answered: Callable[[str, int], None] = lambda route, status: None,
    ) -> None:
        self.running = Running(rules.deadline)
        self._app = app
        self._rules = rules
        self._log = log
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, read = time.perf_counter(), 0, 0
        current: Current | None = None
        request_id = _request_id(scope)
        # The web server sends no body to HEAD.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def sending(message: Message) -> None:
            nonlocal status
            if read > self._rules.max_body:
                return  # what the application makes of a body that was cut off
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        async def receiving() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._rules.max_body:
                raise BodyTooLarge
            return message

        try:
            self._check(scope)
            with self.running.request() as current, suppress(BodyTooLarge):
                await self._app(asked, receiving, sending)
            if read > self._rules.max_body and status == 0:
                read = 0
                raise self._too_large()
        except ApiError as error:
            status = error.status
            answer = JSONResponse(error.for_path(scope["path"]), error.status, error.headers)
            await answer(scope, receive, sending)
        except Exception as error:  # a defect, which the client has been told of
            where = [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
            # Not its text, which may hold words of a prompt.
            self._log(json.dumps({"error": type(error).__name__, "where": where[-3:]}))
        finally:
            outcome = None if current is None else current.outcome
            self._answered(getattr(asked.get("route"), "path", OTHER), outcome or status)
            line = {
                "time": round(time.time(), 3),
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(time.perf_counter() - began, 4),
                "bytes": read,
                "id": request_id,
            }
            self._log(json.dumps(line if outcome is None else line | {"outcome": outcome}))

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").rsplit(":", 1)
        name = host[0] if len(host) == 2 and host[1].isdigit() else ":".join(host)
        # No browser leaves the name out, and whoever checks a server's health in HTTP/1.0 may.
        if name and "*" not in self._rules.hosts and name.lower() not in self._rules.hosts:
            raise ApiError(
                421, f"this server is not called {name!r}; --allowed-host names others", code="host"
            )
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            message = f"a body with Content-Encoding: {encoding:.40} is not read; send it as it is"
            raise ApiError(415, message, code="unsupported_encoding")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._rules.max_body:
            raise self._too_large()
        if self._rules.keys and scope["path"].startswith(KEYED):
            self._check_key(headers)

    def _check_key(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = given.strip().encode() if scheme.lower() == "bearer" else b""
        # Every key is compared, so that the time tells nothing of which one is near.
        matches = [hmac.compare_digest(key, known.encode()) for known in self._rules.keys]
        if not any(matches):
            message = "a key is needed: Authorization: Bearer KEY" if not key else "the key is not known"
            wanted = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, message, type="authentication_error", code="invalid_api_key", headers=wanted)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._rules.max_body} bytes", code="body_too_large")


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _OWN_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
