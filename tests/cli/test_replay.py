"""`gemlet replay`: equal where nothing changed, told where something did, and what is sent where."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gemlet.serve.guard import Rules
from gemlet.serve.traffic import replay
from gemlet.serve.traffic.target import EndpointError, HttpTarget, endpoint_url, is_loopback
from tests.cli.replaying import ANSWER, COUNT, REQUESTS, Run, first, written
from tests.infer.fake_model import fake_decoder, fake_model
from tests.serve.conftest import serving
from tests.serve.endpoint import endpoint, http, plain

KEY = 'sk-secret"of-a-person'


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_the_same_model_answers_the_same(run: Run, concurrency: str) -> None:
    code, result, told = run("--against", "model", "--concurrency", concurrency, "--fail-on", "difference")
    assert code == 0 and (result["requests"], result["equal"]) == (COUNT, COUNT)
    assert [row["line"] for row in result["results"]] == list(range(1, COUNT + 1))
    assert result["recorded"]["refusals"] == result["replayed"]["refusals"]
    assert result["replayed"]["refusals"][0]["reason"] == "unknown_parameter: colour"
    assert result["replayed"]["completion_tokens"] == result["recorded"]["completion_tokens"] > 0
    assert result["replayed"]["cost"] == 0 and result["replayed"]["first_token_s"]["n"] == 4
    assert result["sampled_without_seed"] == 0 and f"{COUNT} equal" in told and "in this process" in told


def test_another_server_answers_the_same(run: Run, traffic: Path) -> None:
    with fake_model() as model, serving(model) as running:
        code, result, told = run("--against", f"{running.url}/v1", "--fail-on", "difference")
    assert code == 0 and result["equal"] == COUNT and f"go to {running.url}/v1, without a key" in told


def test_another_model_differs(run: Run) -> None:
    code, result, told = run(
        "--against", "model", "--fail-on", "difference", decoder=fake_decoder(stop_bias=20.0)
    )
    assert code == 1 and result["different"] == COUNT - 1 and result["equal"] == 1
    assert result["differences"]["text"] == COUNT - 1
    assert "differs in text" in told and "recorded  " in told and "replayed  " in told
    assert run("--against", "model", decoder=fake_decoder(stop_bias=20.0))[0] == 0


def test_without_a_seed_it_is_said(run: Run, traffic: Path, tmp_path: Path) -> None:
    record = first(traffic)
    del record["request"]["seed"]
    _, result, told = run("--against", "model", source=written(tmp_path, record))
    assert result["sampled_without_seed"] == 1 and "sampled without a seed" in told


def test_a_parameter_refused_there_is_named(run: Run, traffic: Path, tmp_path: Path) -> None:
    record = first(traffic)
    record["request"]["reasoning_effort"] = "low"
    code, result, told = run("--against", "model", "--fail-on", "error", source=written(tmp_path, record))
    assert code == 0 and result["differences"] == {"status": 1}
    (refusal,) = result["replayed"]["refusals"]
    assert refusal["status"] == 400 and refusal["reason"].endswith(": reasoning_effort")
    assert f"refused, replayed: 1 with 400 {refusal['reason']}" in told


def test_limit_show_and_prices(run: Run) -> None:
    body = http(json.dumps(ANSWER).encode())
    with endpoint(plain(body)) as other:
        prices = ("--prices", "2,8", "--recorded-prices", "1,1")
        _, result, told = run("--against", other.url, "--limit", "3", "--show", "1", "--ask-usage", *prices)
    assert len(other.requests) == 3 and "… and 2 more" in told
    assert result["replayed"]["cost"] == pytest.approx(3 * (1000 * 2 + 500 * 8) / 1e6)
    side = result["recorded"]
    assert side["cost"] == pytest.approx((side["prompt_tokens"] + side["completion_tokens"]) / 1e6)
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in other.requests]
    assert bodies == [body for _, body in REQUESTS[:3]]  # the second one asked for its counts already


def test_the_model_is_renamed_and_the_rest_is_as_it_was(run: Run) -> None:
    with endpoint(plain(http(json.dumps(ANSWER).encode()))) as other:
        run("--against", other.url, "--model", "big")
        run("--against", f"{other.url}#bigger", "--ask-usage")
    sent = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in other.requests]
    assert sent[:COUNT] == [body | {"model": "big"} for _, body in REQUESTS]
    counted = {"stream_options": {"include_usage": True}}
    expected = [
        body | {"model": "bigger"} | (counted if body.get("stream") and "completions" in path else {})
        for path, body in REQUESTS
    ]
    assert sent[COUNT:] == expected
    lines = [request.split(b"\r\n")[0].decode() for request in other.requests[:COUNT]]
    assert lines == [f"POST {path} HTTP/1.1" for path, _ in REQUESTS]


def test_the_key_is_sent_and_never_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    with fake_model() as model, serving(model, Rules(keys=(KEY,))) as running:
        _, result, told = run("--against", f"{running.url}/v1", "--key-env", "SOME_KEY")
    assert result["equal"] == COUNT and KEY not in told + json.dumps(result) and "SOME_KEY" in told
    echo = {"error": {"message": f"bad key {KEY}", "code": KEY}}
    with endpoint(plain(http(json.dumps(echo).encode(), status="400 Bad Request"))) as other:
        _, result, told = run("--against", other.url, "--key-env", "SOME_KEY")
    assert KEY.encode() in other.requests[0] and "[key]" in told
    assert KEY not in told + json.dumps(result)
    with endpoint(plain(http(b"{}", content_type=f"text/{KEY}"))) as other:
        _, result, told = run("--against", other.url, "--key-env", "SOME_KEY")
    assert result["failures"] == {"content type": COUNT} and KEY not in told + json.dumps(result)


def test_it_gives_up_where_nobody_lets_it_in(run: Run, traffic: Path, tmp_path: Path) -> None:
    source = written(tmp_path, *[first(traffic)] * 20)
    with fake_model() as model, serving(model, Rules(keys=(KEY,))) as running:
        code, result, told = run("--against", f"{running.url}/v1", source=source)
    assert code == 1 and result["requests"] < 20 and "invalid_api_key" in told and result["stopped"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, result, _ = run("--against", f"http://127.0.0.1:{free.getsockname()[1]}/v1", source=source)
    assert code == 1 and result["failures"]["connection"] >= 5 and result["requests"] < 20


def test_a_busy_endpoint_is_asked_again_and_others_are_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "FIRST_WAIT", 0.01)
    busy = http(b'{"error": {"message": "later"}}', status="429 Too Many", more="Retry-After: 0\r\n")
    failing = http(b"<html>", "text/html", "503 Unavailable")
    good = http(json.dumps(ANSWER).encode())
    with endpoint(
        lambda connection, number: connection.sendall([busy, failing, good][min(number, 2)])
    ) as other:
        _, result, _ = run("--against", other.url, "--limit", "1")
    assert len(other.requests) == 3 and result["retried"] == 1 and result["replayed"]["answers"] == 1
    with endpoint(plain(failing)) as other:
        _, result, _ = run("--against", other.url, "--limit", "1")
    assert len(other.requests) == replay.TRIES and result["replayed"]["refusals"][0]["reason"] == "status 503"
    with endpoint(plain(http(b"{}", status="400 No"))) as other:
        run("--against", other.url, "--limit", "1")
    assert len(other.requests) == 1


def test_control_characters_do_not_reach_the_screen(run: Run) -> None:
    answer = ANSWER | {"choices": [{"index": 0, "message": {"content": "\x1b[31m"}, "finish_reason": "stop"}]}
    with endpoint(plain(http(json.dumps(answer).encode()))) as other:
        _, result, told = run("--against", other.url, "--limit", "1")
    assert "\x1b" not in told and result["results"][0]["replayed"]["choices"][0]["text"] == "\x1b[31m"


def test_ctrl_c_tells_what_was_done(run: Run, traffic: Path, tmp_path: Path) -> None:
    good = http(json.dumps(ANSWER).encode())

    def answer(connection: socket.socket, number: int) -> None:
        if number < 3:
            connection.sendall(good)
        elif number == 3:
            os.kill(os.getpid(), signal.SIGINT)
            connection.recv(1)

    with endpoint(answer) as other:
        code, result, told = run("--against", other.url, source=written(tmp_path, *[first(traffic)] * 9))
    assert code == 130 and (result["requests"], result["unfinished"], result["chosen"]) == (3, 1, 9)
    assert len(other.requests) == 4 and "stopped before the end: Ctrl-C" in told


def test_ctrl_c_frees_the_model_in_this_process(run: Run, traffic: Path, tmp_path: Path) -> None:
    record = first(traffic)
    record["request"] |= {"max_tokens": 700, "ignore_eos": True}
    decoder = fake_decoder(delay=0.02)
    decoder.fail = lambda batch: os.kill(os.getpid(), signal.SIGINT) if len(decoder.steps) == 5 else None
    code, result, _ = run("--against", "model", source=written(tmp_path, record), decoder=decoder)
    assert code == 130 and result["unfinished"] == 1 and len(decoder.steps) < 200


def test_a_defect_is_told_and_does_not_hang(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "compare", lambda old, new: 1 // 0)
    code, _, told = run("--against", "model")
    assert code == 1 and "ZeroDivisionError" in told


def test_an_address_needs_no_extra() -> None:
    listing = "import gemlet.serve.traffic.replay, gemlet.cli.replay, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listing], check=True, capture_output=True, text=True)
    assert not {"starlette", "fastapi", "pydantic", "httpx"} & set(loaded.stdout.split())


def test_a_file_that_changes_meanwhile(run: Run, traffic: Path, tmp_path: Path) -> None:
    source = written(tmp_path, first(traffic), first(traffic))

    def answer(connection: socket.socket, number: int) -> None:
        source.write_text("other")
        connection.sendall(http(json.dumps(ANSWER).encode()))

    with endpoint(answer) as other:
        code, _, told = run("--against", other.url, source=source)
    assert code == 2 and f"{source}:2: " in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--against", "http://user:pass@127.0.0.1/v1"], "--key-env"),
        (["--against", "http://127.0.0.1:99999/v1"], "URL"),
        (["--against", "http:///v1"], "no address"),
        (["--against", "http://127.0.0.1/v1?key=x"], "no address"),
        (["--against", "http://127.0.0.1/v1 x"], "URL"),
        (["--against", "http://127.0.0.1:1/v1#a", "--model", "b"], "both name"),
        (["--against", "http://127.0.0.1:1/v1", "--key-env", "NO_SUCH"], "NO_SUCH"),
        (["--against", "x", "--concurrency", "0"], "--concurrency"),
        (["--against", "x", "--limit", "0"], "--limit"),
        (["--against", "x", "--timeout", "nan"], "--timeout"),
        (["--against", "x", "--show", "-1"], "--show"),
        (["--against", "x", "--prices", "1"], "two numbers"),
        (["--against", "x", "--prices", "1,nan"], "from 0"),
        (["--against", "x", "-o", "no/such/folder/file"], "-o"),
        (["--against", "x", "-o", "traffic.jsonl"], "record"),
        ([], "--against"),
    ],
)
def test_wrong_flags(run: Run, arguments: list[str], told: str) -> None:
    code, result, text = run(*arguments)
    assert code in (2, 7) and not result and told in text and "pass@" not in text


def test_a_key_that_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-a\r\nHost: x")
    code, _, told = run("--against", "http://127.0.0.1:1/v1", "--key-env", "SOME_KEY")
    assert code == 7 and "sk-a" not in told


def test_what_leaves_the_machine_is_said_and_keys_are_not_sent_in_the_clear(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made: list[str | None] = []

    def send(self: HttpTarget, path: str, body: bytes, seconds: float) -> None:
        made.append(self.secret)
        raise EndpointError("connection", "there is no network in tests")

    monkeypatch.setattr(HttpTarget, "send", send)
    _, _, told = run("--against", "http://example.org/v1", "--quiet")
    assert f"{COUNT} requests, prompts and all, LEAVE THIS MACHINE WITHOUT ENCRYPTION" in told
    assert set(made) == {None} and "is not sent" in told
    made.clear()
    _, _, told = run("--against", "https://example.org/v1")
    assert "LEAVE THIS MACHINE: to https://example.org/v1, with the key in OPENAI_API_KEY" in told
    assert set(made) == {KEY} and KEY not in told


@pytest.mark.parametrize(
    ("url", "local"),
    [("http://127.0.0.1/v1", True), ("http://[::1]:1/v1", True), ("http://localhost", True)]
    + [(f"http://{host}/v1", False) for host in ("127.0.0.1.example.org", "10.0.0.1", "localhost.example")],
)
def test_what_is_this_machine(url: str, local: bool) -> None:
    assert is_loopback(endpoint_url(url)) == local


@pytest.mark.parametrize(
    ("base", "path", "route"),
    [
        ("http://h/v1", "/v1/completions", "/v1/completions"),
        ("http://h/v1/", "/api/chat", "/api/chat"),
        ("http://h/x/v1beta", "/v1/chat/completions", "/x/v1beta/chat/completions"),
        ("http://h/api/v1", "/api/chat", "/api/api/chat"),
        ("http://h", "/v1/completions", "/completions"),
    ],
)
def test_routes_follow_the_base(base: str, path: str, route: str) -> None:
    assert HttpTarget(endpoint_url(base), None).route(path) == route
