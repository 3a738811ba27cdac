"""`gemlet replay` with endpoints and record files that mean harm, or are broken."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from gemlet.serve.traffic import replay, streams
from tests.cli.replaying import Run, first, written
from tests.serve.endpoint import endpoint, http, plain

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
JSON = b"Content-Type: application/json\r\n\r\n"
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'


def endless(connection: socket.socket, number: int) -> None:
    connection.sendall(STREAM)
    while True:
        connection.sendall(EVENT * 1000)


def dripping(connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X")
        time.sleep(0.02)


def silent(connection: socket.socket, number: int) -> None:
    connection.sendall(STREAM + EVENT)
    connection.recv(1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (endless, "too large"),
        (dripping, "timeout"),
        (silent, "timeout"),
        (plain(STREAM + EVENT), "cut off"),
        (plain(http(b"{}", "text/html")), "content type"),
        (plain(http(b"", status="302 Found", more="Location: http://127.0.0.1:9/\r\n")), "redirect"),
        (plain(http(b"\xff\xfe", "application/json")), "unreadable"),
        (plain(STREAM + b"data: \xff\n\n"), "unreadable"),
        (plain(http(b"[]")), "unreadable"),
        (plain(http(b"{}")), "unreadable"),
        (plain(http(b'{"choices": [{"message": {"content": 5}}]}')), "unreadable"),
        (plain(http(b"[" * 100_000)), "unreadable"),
        (plain(http(b"{}")[:-1]), "protocol"),
        (plain(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + JSON + b"zz"), "protocol"),
        (plain(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000), "protocol"),
        (plain(b"nonsense\r\n\r\n"), "protocol"),
        (plain(b""), "protocol"),
        (plain(http(b'{"a": "' + b"b" * (1 << 21) + b'"}')), "too large"),
    ],
)  # fmt: skip
def test_hostile_endpoints_are_bounded_and_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, answer: Any, kind: str
) -> None:
    for module in (streams, replay):
        monkeypatch.setattr(module, "MAX_ANSWER", 1 << 20)
    with endpoint(answer) as other:
        began = time.monotonic()
        code, result, told = run(
            "--against", other.url, "--limit", "1", "--timeout", "1.5", "--fail-on", "error"
        )
    assert time.monotonic() - began < 60
    assert code == 1 and result["failures"] == {kind: 1} and "Traceback" not in told
    assert len(other.requests) == 1  # sent once


HUGE = b'{"a": "' + b"x" * 70_000_000 + b'"}\n'


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"{\n", "not valid JSON"),
        (b"\n", "not valid JSON"),
        (b"[]\n", "not a JSON object"),
        (b"\xff\n", "not valid JSON"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"path": "/v1/../admin"}, "path"),
        ({"path": "http://127.0.0.1:9/v1/completions"}, "path"),
        ({"path": "/v1/completions\r\nHost: x"}, "path"),
        ({"path": ["/v1/completions"]}, "path"),
        ({"status": "200"}, "status"),
        ({"status": True}, "status"),
        ({"request": "x"}, "request"),
        ({"answer": [1]}, "answer"),
        ({"answer": {"choices": 7}}, "answer"),
        ({"answer": {"choices": [{"message": 7}]}}, "answer"),
        ({"seconds": {"total": 1}}, "seconds"),
        ({"seconds": {"total": -1, "first_byte": None, "first_token": None}}, "seconds.total"),
        ({"ended": "happily"}, "ended"),
        ({"more": 1}, "'more'"),
        (HUGE, "longer than"),
    ],
)
def test_hostile_records_stop_it_before_anything_is_sent(
    run: Run, traffic: Path, tmp_path: Path, bad: Any, problem: str
) -> None:
    good = first(traffic)
    line = bad if isinstance(bad, bytes) else good | bad
    source = written(tmp_path, good, line, good)
    with endpoint(plain(b"")) as other:
        code, result, told = run("--against", other.url, source=source)
    assert code == 2 and not other.requests and not result
    assert f"{source}:2: " in told and problem in told and "Traceback" not in told
    code, result, told = run("--against", "model", "--skip-unreadable", source=source)
    assert code == 0 and result["equal"] == 2 and sum(result["left_out"].values()) == 1


def test_a_record_without_a_field(run: Run, traffic: Path, tmp_path: Path) -> None:
    record = first(traffic)
    del record["status"]
    code, _, told = run("--against", "model", source=written(tmp_path, record))
    assert code == 2 and "some.jsonl:1: has no 'status'" in told


def test_a_torn_last_line_is_passed_over(run: Run, traffic: Path, tmp_path: Path) -> None:
    record = first(traffic)
    whole = json.dumps(record).encode()
    assert run("--against", "model", source=written(tmp_path, record, whole[:-20]))[1]["chosen"] == 1
    assert run("--against", "model", source=written(tmp_path, record, whole))[1]["chosen"] == 2


def test_what_was_not_whole_is_not_sent(run: Run, traffic: Path, tmp_path: Path) -> None:
    record = first(traffic)
    ends = [record | {"ended": end} for end in ("cut", "gone", "broken", "whole")]
    _, result, told = run("--against", "model", source=written(tmp_path, *ends, record | {"request": None}))
    assert result["chosen"] == 1 and sum(result["left_out"].values()) == 4 and "the client left" in told


def test_sources_that_are_none(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for source in (tmp_path / "missing", tmp_path, tmp_path / "pipe.jsonl", Path("/dev/zero")):
        code, _, told = run("--against", "model", source=source)
        assert code == 2 and str(source) in told
    (tmp_path / "empty").mkdir()
    assert "holds no .jsonl file" in run("--against", "model", source=tmp_path / "empty")[2]
    assert "no request" in run("--against", "model", source=written(tmp_path / "empty"))[2]
