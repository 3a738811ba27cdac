"""Recorded traffic to replay, and `gemlet replay` run in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemlet.cli.main import main
from gemlet.serve.traffic.record import TrafficFile
from tests.infer.fake_model import fake_model
from tests.serve.conftest import serving

MESSAGES = [{"role": "user", "content": "The area of a wide room"}]
SEEDED = {"model": "gpt-4o", "messages": MESSAGES, "seed": 3, "max_tokens": 12}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
REQUESTS = [
    ("/v1/chat/completions", SEEDED),
    ("/v1/chat/completions", SEEDED | USAGE),
    ("/v1/completions", {"model": "gpt-4o", "prompt": "wide", "temperature": 0, "n": 2, "max_tokens": 8}),
    ("/v1/completions", {"model": "gpt-4o", "prompt": [5, 6, 300], "seed": 1, "stream": True}),
    ("/v1/chat/completions", SEEDED | {"colour": "red"}),
    ("/v1/responses", {"model": "o3", "input": "wide", "temperature": 0, "max_output_tokens": 9}),
    ("/v1/responses", {"model": "o3", "input": "wide", "temperature": 0, "stream": True}),
    ("/api/chat", {"model": "o3", "messages": MESSAGES, "options": {"seed": 1, "num_predict": 9}}),
    ("/api/generate", {"model": "o3", "prompt": "wide", "options": {"temperature": 0}, "stream": False}),
]
COUNT = len(REQUESTS)
ANSWER = {
    "model": "other",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 500},
}


def record_requests(folder: Path) -> None:
    """A file of REQUESTS, answered by the fake model."""
    file = TrafficFile(folder, print)
    with fake_model() as model, serving(model, None, file.append) as running, running.http() as client:
        for path, body in REQUESTS:
            client.post(path, json=body)
    file.close()
    assert file.recorded == len(REQUESTS)


class Run:
    """Gives the exit code, the JSON document, and everything that was printed."""

    def __init__(self, traffic: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._traffic, self._output, self._capsys = traffic, output, capsys

    def __call__(
        self, *arguments: str, source: Path | None = None, **options: Any
    ) -> tuple[int, dict[str, Any], str]:
        self._output.unlink(missing_ok=True)
        command = ["replay", str(source or self._traffic), "-o", str(self._output), *arguments]
        code = main(command, load=lambda *_, **__: fake_model(**options))
        told = self._capsys.readouterr()
        document = json.loads(self._output.read_text()) if self._output.exists() else {}
        return code, document, told.out + told.err


def first(traffic: Path) -> dict[str, Any]:
    (file,) = traffic.iterdir()
    record: dict[str, Any] = json.loads(file.read_bytes().splitlines()[0])
    return record


def written(folder: Path, *records: Any) -> Path:
    path = folder / "some.jsonl"
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in records]
    path.write_bytes(b"".join(lines))
    return path
