"""A server on this machine, in a thread, over a model small enough to reason about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import httpx
import openai
import pytest
import uvicorn

from gemlet.infer.chat import Model
from gemlet.serve.app import make_app
from gemlet.serve.guard import Rules
from gemlet.serve.handle import Handle
from gemlet.serve.traffic.records import Exchange
from tests.infer.fake_model import fake_decoder, fake_model


@dataclass
class Server:
    """A running server, its log, the model behind it, and what closes with it."""

    url: str
    model: Model
    log: list[str] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    def client(self, key: str = "none") -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)
        return self.stack.enter_context(client)

    def http(self, **headers: str) -> httpx.Client:
        client = httpx.Client(base_url=self.url, timeout=30, headers=headers)
        self.stack.callback(client.close)
        return client


@contextmanager
def serving(
    model: Model | Handle,
    rules: Rules | None = None,
    record: Callable[[Exchange], None] | None = None,
    unload_after: float | None = None,
) -> Iterator[Server]:
    """A server on a free port."""
    log: list[str] = []
    app = make_app([model], rules, log.append, record, unload_after)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end and thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    running = Server(f"http://127.0.0.1:{port}", model.model() if isinstance(model, Handle) else model, log)
    try:
        yield running
    finally:
        running.stack.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with fake_model() as model, serving(model) as running:
        yield running


@pytest.fixture
def slow() -> Iterator[Server]:
    """Every step takes a while."""
    with fake_model(fake_decoder(delay=0.1)) as model, serving(model) as running:
        yield running


def until(true: Callable[[], bool]) -> None:
    """A line is logged when its answer has been sent."""
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
