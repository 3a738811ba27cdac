"""A stand-in for the hub on this machine: what huggingface_hub asks for, over HTTP, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 10 << 10
"""From so many bytes on, files are large ones, with a sha256."""


@dataclass
class Standin:
    """A hub with repositories: name -> file -> bytes. `faults`: what to answer instead, each once, by a word
    that the path has. `requests`: the paths that were asked for, with their ranges.
    """

    repositories: Mapping[str, Mapping[str, bytes]]
    gated: dict[str, str] = field(default_factory=dict)  # repository -> the token that may read it
    known_tokens: set[str] = field(default_factory=set)
    licences: dict[str, str] = field(default_factory=dict)
    more_of_cards: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[tuple[str, str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    lies: dict[str, bytes] = field(default_factory=dict)  # file -> bytes that come instead
    address: str = ""
    gone: threading.Event = field(default_factory=threading.Event)  # ends a "stall"

    def fault(self, path: str) -> tuple[str, Any] | None:
        for i, (word, kind, value) in enumerate(self.faults):
            if word in path:
                del self.faults[i]
                return kind, value
        return None


@contextmanager
def standing_in(standin: Standin) -> Iterator[Standin]:
    """Serve it on 127.0.0.1 meanwhile."""
    handler = type("Handler", (_Handler,), {"hub": standin})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    standin.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield standin
    finally:
        standin.gone.set()
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stopped(hub: Standin, reference: str, ready: Callable[[], bool]) -> tuple[float, bytes]:
    """Ctrl-C to the command in a process of its own, once `ready`; seconds until its end, what it said."""
    environ = os.environ | {"HF_ENDPOINT": hub.address, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "gemlet", "pull", reference]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    limit = time.monotonic() + 60
    while not ready():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    return time.monotonic() - began, said


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Standin
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        fault = self.hub.fault(path) if body or "HEAD" in str(self.hub.faults) else None
        if fault and fault[0] == "status":
            status, headers = fault[1]
            return self._send(status, b"{}", headers)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self._info(match[1], match[2] or "main", body)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(match[1], match[2], match[3], body, fault)
        self._send(404, b"{}", {})

    def _refused(self, repository: str) -> bool:
        if repository not in self.hub.repositories:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return True
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repository in self.hub.gated and token != self.hub.gated[repository]:
            status = 403 if token in self.hub.known_tokens else 401
            self._send(status, b"{}", {"X-Error-Code": "GatedRepo"})
            return True
        return False

    def _unknown_revision(self, revision: str) -> bool:
        if revision in ("main", COMMIT):
            return False
        self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return True

    def _info(self, repository: str, revision: str, body: bool) -> None:
        if repository not in self.hub.repositories:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if self._unknown_revision(revision):
            return None
        siblings = []
        for name, data in self.hub.repositories[repository].items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            if len(data) >= LARGE:
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        card = {"license": self.hub.licences[repository]} if repository in self.hub.licences else None
        card = (card or {}) | self.hub.more_of_cards.get(repository, {}) or None
        document = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
        document |= {"cardData": card, "private": False, "tags": [], "downloads": 1, "likes": 1}
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, body)
        return None

    def _file(
        self, repository: str, revision: str, name: str, body: bool, fault: tuple[str, Any] | None
    ) -> None:
        if self._refused(repository) or self._unknown_revision(revision):
            return
        data = self.hub.repositories[repository].get(name)
        if data is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        large = len(data) >= LARGE
        etag = hashlib.sha256(data).hexdigest() if large else git_sha1(data)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        sent, status = self.hub.lies.get(name, data), 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            start, end = int(asked[1]), int(asked[2] or len(sent) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(sent)}"
            sent, status = sent[start : end + 1], 206
        cut = fault[1] if fault and fault[0] in ("cut", "stall") and body else None
        if fault and fault[0] == "stall" and body:
            self._send(status, sent, headers, body, cut, self.hub.gone)
            return None
        self._send(status, sent, headers, body, cut)
        return None

    def _send(
        self,
        status: int,
        data: bytes,
        headers: Mapping[str, str],
        body: bool = True,
        cut: int | None = None,
        until: threading.Event | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.wfile.flush()
            if until is not None:
                until.wait()
            self.close_connection = True
            self.connection.close()
