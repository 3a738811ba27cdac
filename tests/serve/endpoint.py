"""An endpoint on this machine that answers byte for byte what a test says, however wrong."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[[socket.socket, int], None]


@dataclass
class Endpoint:
    """Its address, and the requests that came, heads and bodies."""

    url: str
    requests: list[bytes] = field(default_factory=list)


def plain(data: bytes) -> Answer:
    """Always these bytes."""
    return lambda connection, number: connection.sendall(data)


def http(
    body: bytes, content_type: str = "application/json", status: str = "200 OK", more: str = ""
) -> bytes:
    """A whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@contextmanager
def endpoint(answer: Answer) -> Iterator[Endpoint]:
    """`answer` gets each connection once its request is read, and the request's number from 0."""
    listener = socket.create_server(("127.0.0.1", 0))
    running = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = _read(connection)
            running.requests.append(request)
            answer(connection, len(running.requests) - 1)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _read(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body
