"""How `gemlet serve` ends: what runs is finished, or is told that it was not."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import suppress
from typing import Any

import httpx
import pytest

from gemlet.cli.serve import EXIT_CUT
from tests.cli.server_process import MESSAGES, Process, served

ASKED: dict[str, Any] = {"messages": MESSAGES, "model": "one", "ignore_eos": True, "seed": 1}


def stream(server: Process, tokens: int, begun: threading.Event, lines: list[str]) -> threading.Thread:
    """Read a stream in a thread; `begun` is set when its first text has come."""

    def read() -> None:
        body = ASKED | {"max_tokens": tokens, "stream": True}
        with server.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                if line:
                    lines.append(line)
                if '"content": ' in line:
                    begun.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_that_is_under_way_is_finished(number: signal.Signals) -> None:
    begun, lines = threading.Event(), list[str]()
    with served(delay=0.03) as server:
        url = server.url
        reading = stream(server, 40, begun, lines)
        assert begun.wait(20)
        server.process.send_signal(number)
        server.says("ending: 1 request may run for 30 seconds more")
        # The listener is closed a moment after the signal; before that the answer is 503.
        with suppress(httpx.TransportError):
            assert httpx.get(f"{url}/health").status_code == 503
        code, told = server.ended()
        reading.join(10)
    assert code == 0 and "cut off" not in told
    assert lines[-1] == "data: [DONE]"
    last = json.loads(lines[-2].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("again", [False, True])
def test_what_runs_too_long_is_cut_and_told_so(again: bool) -> None:
    """After the limit, or at once when the signal comes again."""
    begun, lines = threading.Event(), list[str]()
    whole: list[httpx.Response] = []
    with served("--grace", "300" if again else "0.5", delay=0.05) as server:
        reading = stream(server, 700, begun, lines)
        with server.http() as http:
            body = ASKED | {"max_tokens": 700}
            asking = threading.Thread(
                target=lambda: whole.append(http.post("/v1/chat/completions", json=body))
            )
            asking.start()
            assert begun.wait(20)
            server.process.send_signal(signal.SIGTERM)
            server.says("ending: 2 requests")
            if again:
                server.process.send_signal(signal.SIGINT)
            code, told = server.ended()
            asking.join(10)
        reading.join(10)
    assert code == EXIT_CUT and "cut off before the end: 2 requests" in told
    assert lines[-1] == "data: [DONE]"
    error = json.loads(lines[-2].removeprefix("data: "))["error"]
    assert error["code"] == "server_ending"
    assert whole[0].status_code == 503 and whole[0].headers["retry-after"] == "1"
    assert whole[0].json()["error"]["code"] == "server_ending"
    logged = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    posts = [(one["status"], one.get("outcome")) for one in logged if one["method"] == "POST"]
    assert sorted(posts) == [(200, 503), (503, None)]


def test_a_client_that_does_not_read_does_not_keep_it() -> None:
    with served("--grace", "0.3", delay=0.01) as server, server.http() as http:
        body = ASKED | {"max_tokens": 700, "stream": True, "logprobs": True, "top_logprobs": 20, "n": 8}
        with http.stream("POST", "/v1/chat/completions", json=body):
            server.process.send_signal(signal.SIGTERM)
            code, _ = server.ended()
    assert code == EXIT_CUT


def test_the_deadline_of_the_flag() -> None:
    with served("--deadline", "0.4", delay=0.05) as server, server.http() as http:
        answer = http.post("/v1/chat/completions", json=ASKED | {"max_tokens": 700})
        assert answer.status_code == 504 and "0.4 seconds" in answer.json()["error"]["message"]
        server.process.send_signal(signal.SIGTERM)
        assert server.ended()[0] == 0
