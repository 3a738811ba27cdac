"""Whatever is sent: an error of the client's with words to it, and a server that goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlparse

import httpx
import pytest

from tests.serve.conftest import Server

CHAT = {"model": "model", "messages": [{"role": "user", "content": "wide"}], "max_tokens": 1}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "model", "prompt": "wide", "max_tokens": 1},
    "/v1/responses": {"model": "model", "input": "wide", "max_output_tokens": 1},
    "/v1/embeddings": {"model": "model", "input": "wide"},
    "/tokenize": {"content": "wide"},
    "/detokenize": {"tokens": [300]},
    "/apply-template": {"messages": CHAT["messages"]},
    "/api/chat": {"model": "model", "messages": CHAT["messages"], "options": {"num_predict": 1}},
    "/api/generate": {"model": "model", "prompt": "wide", "options": {"num_predict": 1}},
    "/api/show": {"model": "model"},
}
READ_ONLY = (
    "/v1/models",
    "/v1/models/model",
    "/health",
    "/ready",
    "/status",
    "/metrics",
    "/api/tags",
    "/api/version",
)

JSON = {"content-type": "application/json"}

TEXTS = [
    b"",
    b" ",
    b"{",
    b"}",
    b"[]",
    b"[{}]",
    b'"text"',
    b"5",
    b"null",
    b"true",
    b"{}",
    b'{"model"}',
    b'{"model": }',
    b"{'model': 'x'}",
    b'{"model": "model",}',
    b'{"model": NaN}',
    b'{"model": Infinity}',
    b"\x00",
    b"\xff\xfe",
    b'{"model": "\xff"}',
    b'{"model": "\\ud800"}',
    b'{"\\udc00": 1}',
    b"\xef\xbb\xbf{}",
    '{"model": "model"}'.encode("utf-16"),
    b"[" * 100_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b"9" * 10_000,
    b"-",
    b"<xml/>",
    b"model=x&prompt=y",
]

VALUES = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    1e308,
    "",
    "x" * 10_000,
    "\x00",
    "\uffff\U0001d499\u202e",
    [],
    [None],
    [[[[]]]],
    ["x", 1],
    {},
    {"type": None},
    {"type": "function"},
    {"": {"": {}}},
    [{"role": "user"}],
    [{"role": "user", "content": [{"type": "image_url"}]}],
    [{"role": "tool", "content": "x", "tool_call_id": 5}],
    [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
]


def check(answer: httpx.Response, path: str) -> None:
    """A refusal in the form of the path's API."""
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
    error = answer.json()["error"]
    message = error if path.startswith("/api/") else error["message"]
    assert isinstance(message, str) and 10 < len(message) < 1100, message
    if not path.startswith("/api/"):
        assert set(error) == {"message", "type", "param", "code"} and error["type"].endswith("_error")


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client
        for path, body in GOOD.items():  # alive
            assert client.post(path, json=body).status_code == 200, path


@pytest.mark.parametrize("path", GOOD)
def test_the_good_ones_are(http: httpx.Client, path: str) -> None:
    assert http.post(path, json=GOOD[path]).status_code == 200


@pytest.mark.parametrize("path", GOOD)
def test_bodies_that_are_none(http: httpx.Client, path: str) -> None:
    for body in TEXTS:
        check(http.post(path, content=body, headers=JSON), path)
    good = json.dumps(GOOD[path]).encode()
    for size in range(len(good)):  # cut anywhere
        check(http.post(path, content=good[:size], headers=JSON), path)
    first = next(iter(GOOD[path]))
    twice = good[:-1] + f', "{first}": {json.dumps(GOOD[path][first])}}}'.encode()
    check(http.post(path, content=twice, headers=JSON), path)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
@pytest.mark.parametrize("path", GOOD)
def test_bodies_that_are_not_said_to_be_json(http: httpx.Client, path: str, kind: str) -> None:
    content = json.dumps(GOOD[path])
    check(http.post(path, content=content, headers={"content-type": kind} if kind else {}), path)


@pytest.mark.parametrize("path", GOOD)
def test_values_that_do_not_fit(http: httpx.Client, path: str) -> None:
    """Every field of the schema with every value: taken or refused, never a defect."""
    document = http.get("/openapi.json").json()
    reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "$ref"
    ]
    fields = document["components"]["schemas"][reference.rsplit("/", 1)[1]]["properties"]
    refused = 0
    for field in [*fields, "unknown"]:
        for value in VALUES:
            body = GOOD[path] | {field: value}
            answer = http.post(path, json=body)
            if answer.status_code != 200 or field == "unknown":
                check(answer, path)
                refused += 1
    assert refused > len(fields) * len(VALUES) / 3


def nested(key: str, levels: int) -> dict[str, Any]:
    """Objects inside one another."""
    inner: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        inner = {"type": "object", key: {"a": inner}}
    return inner


def form(schema: object) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


IMPOSSIBLE = [form({"$ref": "#"}), {"grammar": "start: start"}]

HARD: list[dict[str, Any]] = [
    *IMPOSSIBLE,
    form(nested("properties", 60)),
    form({"$ref": "#/nowhere"}),
    form({"$ref": "http://127.0.0.1/schema.json"}),
    form({"type": "string", "pattern": "(" * 1000}),
    form({"type": "string", "pattern": "(a{1000}){1000}"}),
    form({"type": "integer", "minimum": 5, "maximum": 4}),
    form({"enum": []}),
    form({"allOf": [{"type": "string"}, {"type": "integer"}]}),
    form({"type": "array", "minItems": 10**12}),
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": nested("properties", 60)}}]},
    {"tools": [{"type": "function", "function": {"name": "f"}}] * 200},
    {"tools": [{"type": "function", "function": {"name": "f\n"}}]},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"regex": "("},
    {"regex": "(((a*)*)*)*" * 900},
    {"regex": "a{100000}{100000}"},
    {"regex": "\\"},
    {"grammar": "start: /(/"},
    {"grammar": "begin: 'x'"},
    {"grammar": "x" * 70_000},
    {"regex": "a", "grammar": 'start: "a"'},
    {"logit_bias": {"-1": 1}},
    {"logit_bias": {"1" * 50: 1}},
    {"logit_bias": {"300": 1e300}},
    {"stop": ["x"] * 100},
    {"messages": [{"role": "user", "content": "wide " * 10_000}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]},
    {"messages": [{"role": "user", "content": "x", "tool_calls": 5}]},
]


@pytest.mark.parametrize("hard", HARD, ids=range(len(HARD)))
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_hard_to_keep(http: httpx.Client, hard: dict[str, Any], stream: bool) -> None:
    answer = http.post("/v1/chat/completions", json=CHAT | {"stream": stream} | hard)
    if stream and answer.status_code == 200:
        # What no text can fulfil is only found where the first token is chosen.
        assert hard in IMPOSSIBLE and '"invalid_request_error"' in answer.text
    else:
        check(answer, "/v1/")


def test_what_input_may_be_is_said(server: Server) -> None:
    def refusal(item: Any) -> str:
        body = {"model": "gpt-4o", "input": [item]}
        message: str = server.http().post("/v1/responses", json=body).json()["error"]["message"]
        return message

    assert "must be text, or a list of parts" in refusal({"role": "user", "content": 7})
    for item in ({"type": "reasoning"}, {"type": "nothing"}, {}, 5):
        assert "its type must be one of message, function_call, function_call_output" in refusal(item)
    image = refusal({"role": "user", "content": [{"type": "input_image"}]})
    assert "not supported: its type must be one of input_text" in image


@pytest.mark.parametrize("path", [*GOOD, *READ_ONLY])
def test_methods_that_are_none(http: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        if (method == "GET") != (path in READ_ONLY) and not (method == "POST" and path in GOOD):
            answer = http.request(method, path)
            check(answer, path)
            assert answer.status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        *("/v1", "/v1/", "/v1/nothing", "/api/", "/api/nothing", "/%E2%80%AE", "/v1/models/%00"),
        *("/v1/models/%ff", "/v1/models/..%2f..%2fetc", "/js/../../app.py", "/js/%00"),
        *("/v1/models/" + "x" * 5000, "/v1/models/" + "a/" * 500, "/css/" + "x" * 5000),
    ],
    ids=str.__len__,
)
def test_paths_that_are_none(http: httpx.Client, path: str) -> None:
    check(http.get(path), path)


HEADS = [
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"NONSENSE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: \xff\xfe\r\n\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("head", HEADS, ids=range(len(HEADS)))
def test_requests_that_are_none(server: Server, http: httpx.Client, head: bytes) -> None:
    """Below HTTP's own rules the web server answers, or hangs up; nothing is a defect."""
    where = urlparse(server.url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as raw:
        with suppress(OSError):  # it does not read all of what is too long
            raw.sendall(head)
            raw.shutdown(socket.SHUT_WR)
        status = _status(raw)
    assert status is None or status == 200 or 400 <= status < 500
    assert http.get("/health").status_code == 200
    assert not any('"error"' in line for line in server.log)


def _status(raw: socket.socket) -> int | None:
    """None where it hung up."""
    try:
        line = raw.recv(4096).split(b"\r\n")[0].split()
    except ConnectionError:
        return None
    return int(line[1]) if len(line) > 1 else None
