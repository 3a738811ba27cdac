"""Where replayed requests go: an endpoint over HTTP, or gemlet's own application without a socket."""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, urlsplit

from gemlet.errors import ConfigError, GemletError, InvalidRequestError
from gemlet.version import __version__

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

SECONDS_TO_CONNECT = 30.0
PIECE = 1 << 16


class EndpointError(GemletError):
    """A request that got no usable answer. `kind` is one word for it: connection, timeout, redirect, …"""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Reply:
    """An answer that has begun. `pieces` are its bytes; they raise where it breaks off.

    `began`: the `time.perf_counter` of when the request was sent, once connected.
    """

    began: float
    status: int
    content_type: str
    retry_after: str | None
    pieces: Iterator[bytes]


class Target(Protocol):
    """What requests are sent to, from several threads at once.

    `local`: on this machine. `secret`: what nothing may repeat.
    """

    name: str
    local: bool
    secret: str | None

    def send(self, path: str, body: bytes, seconds: float) -> AbstractContextManager[Reply]:
        """POST a body. EndpointError when the whole takes longer than `seconds`, or is broken off."""

    def abort(self) -> None:
        """End all answers under way; what is sent afterwards fails."""


class Calls:
    """The answers under way, each with what ends it: when its time is over, or all of them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[int, Any] = {}
        self.aborted = False

    @contextmanager
    def ending(self, end: Any, seconds: float) -> Iterator[threading.Event]:
        """`end` is called when the time is over, which sets the event, and by `abort`."""
        overdue = threading.Event()

        def late() -> None:
            overdue.set()
            end()

        timer = threading.Timer(seconds, late)
        timer.daemon = True
        with self._lock:
            if self.aborted:
                raise EndpointError("stopped", "was not sent")
            self._ends[id(overdue)] = end
        timer.start()
        try:
            yield overdue
        finally:
            timer.cancel()
            with self._lock:
                del self._ends[id(overdue)]

    def abort(self) -> None:
        """End all."""
        with self._lock:
            self.aborted = True
            ends = list(self._ends.values())
        for end in ends:
            end()

    def over(self, overdue: threading.Event) -> bool:
        """Whether a call was ended from here."""
        return self.aborted or overdue.is_set()

    def failure(self, overdue: threading.Event, seconds: float, error: Exception | None) -> EndpointError:
        """What a call that broke off is to be called."""
        if self.aborted:
            return EndpointError("stopped", "was stopped before its answer was whole")
        if overdue.is_set() or isinstance(error, TimeoutError):
            return EndpointError("timeout", f"took longer than {seconds:g} s")
        if isinstance(error, http.client.HTTPException):
            return EndpointError("protocol", f"the answer is not HTTP, or broke off ({type(error).__name__})")
        return EndpointError("connection", f"{getattr(error, 'strerror', None) or error or 'it broke off'}")


def endpoint_url(text: str) -> SplitResult:
    """The base URL of an OpenAI-compatible API. Raises InvalidRequestError, which repeats no secret."""
    try:
        url = urlsplit(text)
        port_fits = url.port is None or url.port > 0
    except ValueError:
        raise InvalidRequestError("--against: the URL cannot be read") from None
    if "@" in url.netloc:
        hint = "--key-env names the variable that holds the key"
        raise InvalidRequestError("--against: a URL must not hold a password", hint=hint)
    if url.scheme not in ("http", "https") or not url.hostname or not port_fits or url.query:
        hint = "give the base URL of the API: http://127.0.0.1:11435/v1"
        raise InvalidRequestError(f"--against {text}: is no address of an endpoint", hint=hint)
    if not text.isascii() or any(character <= " " for character in text):
        raise InvalidRequestError("--against: the URL holds characters that no URL has")
    return url


def is_loopback(url: SplitResult) -> bool:
    """Whether the address is this machine."""
    host = url.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HttpTarget:
    """An endpoint. Redirects are not followed, so that neither prompts nor the key go anywhere else."""

    def __init__(self, url: SplitResult, key: str | None) -> None:
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError("the key holds characters that no key has")
        self.name = url.geturl()
        self.local = is_loopback(url)
        self._url = url
        self.secret = key
        self._calls = Calls()
        self._context = ssl.create_default_context() if url.scheme == "https" else None

    def route(self, path: str) -> str:
        """The path on the server: /v1/… continues the base URL, the others begin beside its /v1."""
        base = self._url.path.rstrip("/")
        if path.startswith("/v1/"):
            return base + path.removeprefix("/v1")
        return base.removesuffix("/v1") + path

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        host, port = str(self._url.hostname), self._url.port
        if self._context is not None:
            return http.client.HTTPSConnection(host, port, timeout=seconds, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=seconds)

    @contextmanager
    def send(self, path: str, body: bytes, seconds: float) -> Iterator[Reply]:
        headers = {"Content-Type": "application/json", "User-Agent": f"gemlet/{__version__}"}
        if self.secret is not None:
            headers["Authorization"] = f"Bearer {self.secret}"
        connection = self._connection(min(seconds, SECONDS_TO_CONNECT))

        def end() -> None:
            if connection.sock is not None:
                with suppress(OSError):  # the plain one: TLS would first wait for the other side
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

        with self._calls.ending(end, seconds) as overdue:
            try:
                connection.connect()
                connection.sock.settimeout(seconds)
                began = time.perf_counter()
                connection.request("POST", self.route(path), body, headers)
                response = connection.getresponse()
                if self._calls.over(overdue):  # half a line of a head is taken for a whole one
                    raise http.client.IncompleteRead(b"")
                yield Reply(
                    began,
                    response.status,
                    response.getheader("Content-Type", ""),
                    response.getheader("Retry-After"),
                    self._pieces(response, overdue),
                )
            except (
                OSError,
                http.client.HTTPException,
                UnicodeError,
            ) as error:  # the last: of the host's name
                raise self._calls.failure(overdue, seconds, error) from None
            finally:
                connection.close()

    def _pieces(self, response: http.client.HTTPResponse, overdue: threading.Event) -> Iterator[bytes]:
        while piece := response.read1(PIECE):
            yield piece
        # Of these the library does not say that they broke off: fewer bytes than were promised, and an end
        # that is ours.
        if response.length or self._calls.over(overdue):
            raise http.client.IncompleteRead(b"", response.length)

    def abort(self) -> None:
        self._calls.abort()


class AppTarget:
    """An application in this process. A context manager: its loop has a thread of its own."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self.name = name
        self.local = True
        self.secret: str | None = None
        self._app = app
        self._calls = Calls()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gemlet-replay", daemon=True)

    def __enter__(self) -> AppTarget:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def send(self, path: str, body: bytes, seconds: float) -> Iterator[Reply]:
        messages: queue.Queue[Message | Exception | None] = queue.Queue()
        began = time.perf_counter()
        exchange = _AppCall(self._app, path, body, messages)

        def end() -> None:
            messages.put(None)

        until = began + seconds
        with self._calls.ending(end, seconds) as overdue:
            work = asyncio.run_coroutine_threadsafe(exchange.run(), self._loop)
            try:

                def next_message() -> Message:
                    with suppress(queue.Empty):
                        message = messages.get(timeout=max(0.0, until - time.perf_counter()))
                        if isinstance(message, dict) and not overdue.is_set():
                            return message
                        if isinstance(message, Exception):
                            raise EndpointError("internal", type(message).__name__)
                    if not self._calls.aborted:
                        overdue.set()
                    raise self._calls.failure(overdue, seconds, None)

                start = next_message()
                headers = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
                yield Reply(
                    began,
                    start["status"],
                    headers.get("content-type", ""),
                    headers.get("retry-after"),
                    _pieces(next_message),
                )
            finally:
                self._loop.call_soon_threadsafe(exchange.leave)
                with suppress(Exception):
                    work.result(SECONDS_TO_CONNECT)

    def abort(self) -> None:
        self._calls.abort()


def _pieces(next_message: Any) -> Iterator[bytes]:
    more = True
    while more:
        message = next_message()
        more = message.get("more_body", False)
        yield message.get("body", b"")


class _AppCall:
    """One request to an application, as its server would make it."""

    def __init__(self, app: ASGIApp, path: str, body: bytes, answer: queue.Queue[Any]) -> None:
        self._app = app
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ],
            "client": None,
            "server": ("localhost", 80),
        }
        self._body: bytes | None = body
        self._answer = answer
        self._left = asyncio.Event()

    def leave(self) -> None:
        """The client goes away; called on the loop."""
        self._left.set()

    async def run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception as error:
            self._answer.put(error)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self._answer.put(message)
