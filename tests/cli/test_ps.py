"""`gemlet ps`: servers of this machine, found by their files, and files that servers left behind."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from gemlet.cli.main import main
from gemlet.store.servers import listed, server_files, servers_dir
from tests.cli.server_process import MESSAGES, served
from tests.infer.fake_model import fake_model
from tests.serve.test_openai_client import until


def ps(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["ps", *flags]) == 0
    return capsys.readouterr().out


def servers(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return json.loads(ps(capsys, "--json"))["servers"]


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert ps(capsys) == "no server runs\n" and servers(capsys) == []


def test_what_a_server_holds(capsys: pytest.CaptureFixture[str]) -> None:
    body = {"messages": MESSAGES, "model": "one", "ignore_eos": True, "max_tokens": 100, "stream": True}
    before = time.time()
    # A key, and a rest of 0.3 seconds: neither is asked of who asks for the state, or ended by it.
    flags = "--unload-after", "0.005"
    with served(*flags, delay=0.03, GEMLET_API_KEY="k") as server:
        key = {"authorization": "Bearer k"}
        with server.http(headers=key) as http, http.stream("POST", "/v1/chat/completions", json=body) as got:
            lines = got.iter_lines()
            next(lines)
            (one,) = servers(capsys)
            assert one["answers"] and one["pid"] == server.process.pid and one["address"] == server.url
            assert before < one["since"] < time.time() and one["resident_bytes"] > 2**20
            assert one["models"] == [{"id": "one", "loaded": True, "running": 1, "waiting": 0}]
            heading, line = ps(capsys).splitlines()
            assert heading.split()[:4] == ["MODEL", "STATE", "RUNNING", "WAITING"]
            assert line.split()[:4] == ["one", "loaded", "1", "0"] and line.endswith(server.url)
        until(lambda: servers(capsys)[0]["models"][0]["loaded"] is False)
        assert ps(capsys).splitlines()[1].split()[1] == "closed"
        with server.http(headers=key) as http:
            asked = body | {"stream": False, "max_tokens": 2}
            assert http.post("/v1/chat/completions", json=asked).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.ended()[0] == 0
    assert list(servers_dir().iterdir()) == [] and servers(capsys) == []


def test_who_was_killed_is_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with served() as server:
        assert len(servers(capsys)) == 1
        server.process.kill()
        server.process.wait(10)
        assert len(server_files()) == 1
        assert servers(capsys) == [] and server_files() == []


def test_another_server_at_a_left_address_is_not_taken_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    with served() as server, listed(server.url):
        assert len(server_files()) == 2  # this process says that it listens there, too
        assert [one["pid"] for one in servers(capsys)] == [server.process.pid]
        assert [one.pid for one in server_files()] == [server.process.pid]


def test_who_does_not_answer_is_listed_as_that(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemlet.cli.ps.PATIENCE", 0.1)
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.enter_context(listed(f"http://127.0.0.1:{deaf.getsockname()[1]}"))
        (one,) = servers(capsys)
        assert one["answers"] is False and one["pid"] == os.getpid() and one["models"] == []
        assert "no answer" in ps(capsys)
        assert len(server_files()) == 1


def server_file(
    machine: object = platform.node(), address: object = "http://127.0.0.1:1", pid: object = 1
) -> str:
    return json.dumps({"machine": machine, "address": address, "pid": pid, "since": 1.0})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"pid": 1}'),
        server_file(machine="elsewhere"),
        server_file(address="file:///etc/passwd"),
        server_file(address=5),
        server_file(pid="1"),
    ],
)
def test_files_that_no_server_of_this_machine_wrote(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    servers_dir().mkdir(parents=True)
    (servers_dir() / "1.json").write_text(text)
    assert servers(capsys) == []
    assert (servers_dir() / "1.json").exists()  # it is nobody's business


def test_who_listens_everywhere_is_asked_here(capsys: pytest.CaptureFixture[str]) -> None:
    with served("--host", "0.0.0.0") as server:
        (one,) = servers(capsys)
        assert one["answers"] and one["address"] == server.url and "0.0.0.0" in server.url


def test_it_serves_where_the_cache_cannot_be_written(
    own_cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_cache / "servers").write_text("in the way")
    monkeypatch.setattr("gemlet.serve.server.Server.run", lambda self, sockets: None)
    assert main(["serve", "--port", "0"], load=lambda *_, **__: fake_model()) == 0
    assert "gemlet ps will not find this server" in capsys.readouterr().err
