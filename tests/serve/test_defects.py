"""A defect in mid-stream: the client learns that there is one, the log where, nobody what was said."""

from __future__ import annotations

import json

import pytest

from gemlet.serve import chat, completions, responses
from tests.serve.conftest import Server
from tests.serve.test_openai_client import until

MESSAGES = [{"role": "user", "content": "a secret"}]


@pytest.mark.parametrize(
    ("route", "module", "body"),
    [
        ("/v1/chat/completions", chat, {"messages": MESSAGES}),
        ("/v1/completions", completions, {"prompt": "a secret"}),
        ("/v1/responses", responses, {"input": "a secret"}),
        ("/api/chat", None, {"messages": MESSAGES}),
    ],
)
def test_a_defect_in_mid_stream(server: Server, monkeypatch: pytest.MonkeyPatch, route, module, body) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    if module is None:
        monkeypatch.setattr("gemlet.serve.ollama.finish_of", broken)
    else:
        monkeypatch.setattr(module, "finish_of", broken)
    before = len(server.log)
    answer = server.http().post(route, json={"model": "gpt-4o", "stream": True} | body)
    assert answer.status_code == 200 and answer.text.count("internal error") == 1
    assert "secret" not in answer.text
    until(lambda: len(server.log) >= before + 2)
    told, line = map(json.loads, server.log[before : before + 2])
    assert told["error"] == "ZeroDivisionError" and any("serve" in place for place in told["where"])
    assert line["path"] == route and "secret" not in str(server.log[before:])
