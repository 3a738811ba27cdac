"""Who is let in, and with how much."""

from __future__ import annotations

import gzip
import json
import socket
from urllib.parse import urlparse

import openai
import pytest

from gemlet.serve.guard import Rules
from tests.infer.fake_model import fake_model
from tests.serve.conftest import serving, until


@pytest.fixture(scope="module")
def guarded():
    with fake_model() as model, serving(model, Rules(keys=("first", "second"), max_body=2000)) as running:
        yield running


def test_a_key_is_needed(guarded):
    for key in ("first", "second"):
        assert guarded.client(key).models.list().data
    for key in ("firs", "firstt", "FIRST", "second,first"):
        with guarded.http(authorization=f"Bearer {key}") as http:
            answer = http.get("/v1/models")
        assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        guarded.client("wrong").models.list()
    with guarded.http() as http:
        assert http.get("/health").status_code == 200
        for path in ("/tokenize", "/v1/responses", "/api/chat", "/api/generate", "/api/show"):
            assert http.post(path, json={}).status_code == 401
        for path in ("/v1/models", "/api/tags", "/api/version"):
            assert http.get(path).status_code == 401


def test_a_large_body_is_refused(guarded):
    with guarded.http(authorization="Bearer first") as http:
        body = json.dumps({"content": "x" * 3000}).encode()
        assert http.post("/tokenize", content=body).status_code == 413
        pieces = (body[i : i + 500] for i in range(0, len(body), 500))  # without a length
        answer = http.post("/tokenize", content=pieces)
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
        for path in ("/v1/chat/completions", "/v1/responses", "/api/chat", "/api/generate"):
            assert http.post(path, content=body).status_code == 413
        assert http.get("/v1/models").status_code == 200


def test_another_sites_name_is_refused(guarded):
    with guarded.http(authorization="Bearer first", host="attacker.example") as http:
        assert http.get("/v1/models").status_code == 421
        assert http.post("/v1/responses", json={}).status_code == 421


def test_who_names_no_server_is_no_browser(server):
    """Checks of a server's health in HTTP/1.0 have no Host."""
    where = urlparse(server.url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as raw:
        raw.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert b" 200 " in raw.recv(4096).split(b"\r\n")[0]


def test_head_is_get_without_a_body(server):
    with server.http() as http:
        for path in ("/", "/health", "/ready", "/metrics", "/v1/models", "/js/"):
            asked, got = http.head(path), http.get(path)
            assert (asked.status_code, asked.content) == (got.status_code, b""), path
            assert asked.headers["content-type"] == got.headers["content-type"]
        assert http.head("/tokenize").status_code == 405


def test_a_compressed_body_is_refused_for_what_it_is(server):
    with server.http() as http:
        answer = http.post(
            "/tokenize",
            content=gzip.compress(b'{"content": "wide"}'),
            headers={"content-type": "application/json", "content-encoding": "gzip"},
        )
        assert answer.status_code == 415 and answer.json()["error"]["code"] == "unsupported_encoding"
        assert "Content-Encoding: gzip" in answer.json()["error"]["message"]
        plain = http.post("/tokenize", json={"content": "wide"}, headers={"content-encoding": "identity"})
        assert plain.status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/nowhere"])
def test_an_answer_and_its_log_line_have_the_same_id(server, path):
    with server.http() as http:
        drawn = {http.get(path).headers["x-request-id"] for _ in range(2)}
        assert len(drawn) == 2
        assert http.get(path, headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
        odd = http.get(path, headers={"X-Request-Id": "a b\t{}"}).headers["x-request-id"]
    assert odd.startswith("req_")
    wanted = {*drawn, "mine-1", odd}
    until(lambda: wanted <= {json.loads(line).get("id") for line in server.log})


def test_refusals_of_the_guard_have_an_id_too():
    with fake_model() as model, serving(model, Rules(keys=["key"])) as running, running.http() as http:
        assert http.get("/v1/models").headers["x-request-id"].startswith("req_")
