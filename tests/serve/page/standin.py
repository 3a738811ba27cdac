"""A small server with the page and a scripted API, so that a test decides what comes when."""

from __future__ import annotations

import json
import mimetypes
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.repo.sources import PACKAGE

PAGE = PACKAGE / "serve" / "page"
MODEL = {"id": "gemma-3-270m", "object": "model", "created": 0, "owned_by": "gemlet", "context_length": 2048}
MODELS: list[dict[str, Any]] = [
    {**MODEL, "chat_format": True, "adapters": ["poet"]},
    {**MODEL, "id": "gemma-3-270m+poet", "chat_format": True, "adapters": []},
    {**MODEL, "id": "base-1b", "context_length": 32768, "chat_format": False, "adapters": []},
]


@dataclass(frozen=True)
class Prefill:
    """Progress of a long prompt, as a comment in the stream."""

    done: int
    total: int


@dataclass(frozen=True)
class Fault:
    """An error in the middle of a stream."""

    message: str


@dataclass(frozen=True)
class UntilGone:
    """Nothing more until the client has left."""


@dataclass(frozen=True)
class CutOff:
    """The connection closes without an end."""


Piece = str | Prefill | Fault | UntilGone | CutOff | threading.Event


@dataclass(frozen=True)
class Answer:
    """What the next completion is: pieces of a stream (an Event holds it up), or an HTTP error."""

    pieces: Sequence[Piece] = ()
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    cached: int = 0


class StandIn:
    """The server, what it shall answer, and what it was asked."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.models = MODELS
        self.key: str | None = None
        self.client_left = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"standin": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def say(self, *pieces: Piece, **facts: Any) -> None:
        """Queue an answer."""
        self.answers.append(Answer(pieces, **facts))

    def refuse(self, status: int, message: str, **facts: Any) -> None:
        headers = facts.pop("headers", {})
        self.answers.append(Answer(status=status, error={**_error(message), **facts}, headers=headers))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"message": message, "type": "error", "param": None, "code": code}


class _Handler(BaseHTTPRequestHandler):
    standin: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.standin.paths.append(path)
        if path == "/v1/models":
            if self._authorised():
                self._send_json(200, {"object": "list", "data": self.standin.models})
            return
        self._send_file((PAGE / (path.lstrip("/") or "index.html")).resolve())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._authorised():
            return
        self.standin.requests.append(body)
        default = Answer(("You asked: ", body["messages"][-1]["content"]))
        answer = self.standin.answers.popleft() if self.standin.answers else default
        if answer.status == 200:
            self._stream(answer, body)
        else:
            self._send_json(answer.status, {"error": answer.error}, answer.headers)

    def _authorised(self) -> bool:
        key = self.standin.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        self._send_json(401, {"error": _error("Wrong key.", "invalid_api_key")})
        return False

    def _send_file(self, path: Path) -> None:
        if not path.is_relative_to(PAGE) or not path.is_file():
            self._send_json(404, {"error": {"message": "Not found."}})
            return
        self._send(200, path.read_bytes(), mimetypes.guess_type(path.name)[0] or "text/plain", {})

    def _send_json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers or {})

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        fields = {"Content-Type": kind, "Content-Length": str(len(content)), **headers}
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, answer: Answer, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            if all(self._piece(piece) for piece in answer.pieces):
                self._end(answer, body)
        except (BrokenPipeError, ConnectionResetError):
            self.standin.client_left.set()

    def _piece(self, piece: Piece) -> bool:
        """Send one piece; False where the stream ends with it."""
        if isinstance(piece, str):
            self._data({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        elif isinstance(piece, Prefill):
            self.wfile.write(f": prefill {piece.done}/{piece.total}\n\n".encode())
        elif isinstance(piece, Fault):
            self._data({"error": _error(piece.message, "lost")})
        elif isinstance(piece, UntilGone):
            self.connection.settimeout(30)
            if self.connection.recv(1) == b"":
                self.standin.client_left.set()
        elif isinstance(piece, threading.Event):
            piece.wait(30)
        return isinstance(piece, (str, Prefill, threading.Event))

    def _end(self, answer: Answer, body: dict[str, Any]) -> None:
        self._data({"choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish}]})
        written = sum(isinstance(piece, str) for piece in answer.pieces)
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "prompt_tokens_details": {"cached_tokens": answer.cached},
        }
        timings = {"prefill_tokens_per_s": 800.0, "decode_tokens_per_s": 41.5, "ttft_s": 0.21}
        if body["stream_options"] == {"include_usage": True}:
            self._data({"choices": [], "usage": usage, "timings": timings})
        self.wfile.write(b"data: [DONE]\n\n")

    def _data(self, value: Any) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()
