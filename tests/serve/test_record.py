"""What is recorded of the traffic, what is not, and that recording never disturbs serving."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gemlet.errors import ConfigError
from gemlet.serve.guard import Rules
from gemlet.serve.traffic import record, streams
from gemlet.serve.traffic.record import TrafficFile
from gemlet.serve.traffic.records import Exchange, Seconds, scan
from tests.infer.fake_model import fake_decoder, fake_model
from tests.serve.conftest import Server, serving

MESSAGES = [{"role": "user", "content": "The area of a wide room"}]
OPTIONS = {"max_tokens": 12, "seed": 3, "temperature": 0.8}
KEY = "sk-key-of-a-person"
EXCHANGE = Exchange(
    "2026-01-01T00:00:00.000+00:00",
    "/v1/completions",
    "m",
    "0",
    {"model": "m", "prompt": "\udcffé"},
    200,
    {"choices": []},
    "whole",
    Seconds(0.1, None, 0.2),
)


class Recorded:
    """A server that records, and what it has written."""

    def __init__(self, server: Server, traffic: TrafficFile, warnings: list[str]) -> None:
        self.server, self.traffic, self.warnings = server, traffic, warnings
        self.client = server.client(KEY)

    def chat(self, **options: Any) -> Any:
        return self.client.chat.completions.create(model="gpt-4o", messages=MESSAGES, **OPTIONS | options)

    def records(self, count: int) -> list[dict[str, Any]]:
        """The lines, once there are so many: an answer is whole before its record is written."""
        end = time.monotonic() + 10
        while len(lines := self.traffic.path.read_bytes().splitlines()) < count:
            assert time.monotonic() < end
            time.sleep(0.01)
        return [json.loads(line) for line in lines]


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    warnings: list[str] = []
    traffic = TrafficFile(tmp_path / "traffic", warnings.append)
    with fake_model() as model, serving(model, Rules(keys=(KEY,)), traffic.append) as running:
        yield Recorded(running, traffic, warnings)
    if traffic._thread.is_alive():
        traffic.close()


def test_a_stream_is_recorded_as_the_answer_without_one(recorded: Recorded) -> None:
    options = {"logprobs": True, "top_logprobs": 2, "n": 2}
    answer = recorded.chat(**options)
    list(recorded.chat(stream=True, stream_options={"include_usage": True}, **options))
    alone, streamed = recorded.records(2)
    told = [one.message.content for one in answer.choices]
    assert [one["message"]["content"] for one in alone["answer"]["choices"]] == told
    for one, other in zip(alone["answer"]["choices"], streamed["answer"]["choices"], strict=True):
        assert one["message"]["content"] == other["message"]["content"]
        assert one["finish_reason"] == other["finish_reason"]
        assert one["logprobs"]["content"] == other["logprobs"]["content"]
    counts = [record["answer"]["usage"]["completion_tokens"] for record in (alone, streamed)]
    assert counts[0] == counts[1] > 0
    assert alone["request"]["messages"] == MESSAGES and streamed["request"]["stream"] is True
    assert [record["ended"] for record in (alone, streamed)] == ["whole", "whole"]
    assert alone["seconds"]["first_token"] is None
    assert streamed["seconds"]["first_token"] <= streamed["seconds"]["total"]


def test_completions_and_refusals_are_recorded_and_nothing_else(recorded: Recorded) -> None:
    recorded.client.completions.create(model="gpt-4o", prompt="wide", **OPTIONS)
    with pytest.raises(openai.BadRequestError):
        recorded.chat(extra_body={"colour": "red"})
    recorded.client.embeddings.create(model="gpt-4o", input="wide")
    recorded.client.models.list()
    with recorded.server.http() as http:
        assert http.post("/v1/completions", json={"model": "o3", "prompt": "x"}).status_code == 401
    with recorded.server.http(authorization=f"Bearer {KEY}") as http:
        assert http.post("/v1/completions", content=b"{").status_code == 400
    first, refused, broken = recorded.records(3)
    recorded.traffic.close()
    assert recorded.traffic.recorded == 3
    assert first["path"] == "/v1/completions" and first["answer"]["choices"][0]["text"]
    assert refused["status"] == 400 and refused["answer"]["error"]["param"] == "colour"
    assert broken["request"] is None and broken["status"] == 400


def test_only_its_owner_reads_it_and_it_holds_no_header(recorded: Recorded) -> None:
    with recorded.server.http(authorization=f"Bearer {KEY}", cookie="c=secret-cookie") as http:
        http.post("/v1/completions", json={"model": "o3", "prompt": "x", "max_tokens": 2})
    recorded.records(1)
    text = recorded.traffic.path.read_text()
    for hidden in (KEY, "secret-cookie", "127.0.0.1", "Bearer", "content-type", "user-agent"):
        assert hidden not in text
    assert stat.S_IMODE(recorded.traffic.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(recorded.traffic.path.parent.stat().st_mode) == 0o700


def test_a_client_that_leaves_is_recorded_as_gone(tmp_path: Path) -> None:
    traffic = TrafficFile(tmp_path, print)
    with fake_model(fake_decoder(delay=0.05)) as model, serving(model, None, traffic.append) as running:
        body = {"model": "o3", "messages": MESSAGES, "stream": True, "ignore_eos": True, "max_tokens": 300}
        with running.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
            next(answer.iter_lines())
        end = time.monotonic() + 10
        while not traffic.recorded:
            assert time.monotonic() < end
            time.sleep(0.01)
    traffic.close()
    ((_, found),) = scan(traffic.path)
    assert isinstance(found, Exchange) and found.ended == "gone"


def test_a_large_answer_is_recorded_as_cut(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_ANSWER", 1500)
    answer = recorded.chat(max_tokens=40, stream=True, extra_body={"ignore_eos": True})
    text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    recorded.chat(max_tokens=40, logprobs=True, extra_body={"ignore_eos": True})
    streamed, alone = recorded.records(2)
    assert streamed["ended"] == alone["ended"] == "cut"
    begun = streamed["answer"]["choices"][0]["message"]["content"]
    assert text.startswith(begun) and len(begun) < len(text) and alone["answer"] is None


def test_a_full_disk_costs_records_not_answers(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    write, full = os.write, [True]

    def nearly_full(handle: int, data: bytes) -> int:
        return write(handle, data[:40] if full[0] and handle == recorded.traffic._handle else data)

    recorded.chat()
    recorded.records(1)
    monkeypatch.setattr(record.os, "write", nearly_full)
    for _ in range(3):
        assert recorded.chat().choices[0].message.content
    end = time.monotonic() + 10
    while recorded.traffic.lost < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    full[0] = False
    recorded.chat()
    assert len(recorded.records(2)) == 2  # no torn line between them
    assert len(recorded.warnings) == 1 and "not recorded" in recorded.warnings[0]


def test_a_removed_folder_costs_records_not_answers(recorded: Recorded) -> None:
    shutil.rmtree(recorded.traffic.path.parent)
    for _ in range(2):
        assert recorded.chat().choices[0].message.content
    recorded.traffic.close()
    assert (recorded.traffic.recorded, recorded.traffic.lost, len(recorded.warnings)) == (0, 2, 1)
    assert "removed" in recorded.warnings[0]


def test_a_disk_that_hangs_stalls_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, write, warnings = threading.Event(), os.write, []

    def hanging(handle: int, data: bytes) -> int:
        go.wait(20)
        return write(handle, data)

    monkeypatch.setattr(record.os, "write", hanging)
    traffic = TrafficFile(tmp_path, warnings.append)
    for _ in range(record.MAX_WAITING + 10):
        traffic.append(EXCHANGE)
    assert 9 <= traffic.lost <= 10 and len(warnings) == 1  # the thread may hold one
    go.set()
    traffic.close()
    assert traffic.recorded + traffic.lost == record.MAX_WAITING + 10
    found = [one for _, one in scan(traffic.path)]
    assert found == [EXCHANGE] * traffic.recorded  # also what UTF-8 cannot say


def test_two_starts_have_two_files(tmp_path: Path) -> None:
    files = [TrafficFile(tmp_path, print) for _ in range(3)]
    assert len({file.path for file in files}) == 3
    for file in files:
        file.close()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--record"):
        TrafficFile(tmp_path / "file", print)


def test_a_server_without_it_writes_nothing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert httpx.post(f"{server.url}/v1/completions", json={"model": "o3", "prompt": "x"}).status_code == 200
    assert not list(tmp_path.iterdir())
