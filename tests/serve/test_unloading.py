"""Models that are closed when nobody uses them, and opened again when somebody does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from gemlet.errors import ModelNotFoundError
from gemlet.infer.chat import Model
from gemlet.serve.handle import Handle
from gemlet.serve.registry import Registry
from tests.infer.fake_model import fake_decoder, fake_model
from tests.serve.conftest import Server, serving
from tests.serve.test_metrics import figures
from tests.serve.test_openai_client import MESSAGES, until

SOON = 0.2
BODY = {"model": "one", "messages": MESSAGES, "max_tokens": 5, "seed": 1, "ignore_eos": True}


class Opening:
    """Opens models, counts how often, and fails when told to."""

    def __init__(self, delay: float = 0.0, step: float = 0.0) -> None:
        self.opened: list[Model] = []
        self.error: Exception | None = None
        self._delay = delay
        self._step = step

    def __call__(self) -> Model:
        time.sleep(self._delay)
        if self.error is not None:
            raise self.error
        self.opened.append(fake_model(fake_decoder(delay=self._step), reference="one"))
        return self.opened[-1]


@contextmanager
def resting(opening: Callable[[], Model], after: float = SOON) -> Iterator[tuple[Server, Handle]]:
    handle = Handle(opening(), opening)
    try:
        with serving(handle, unload_after=after) as running:
            yield running, handle
    finally:
        handle.close()


def test_it_closes_and_opens_again_with_the_same_answers() -> None:
    opening = Opening()
    with resting(opening) as (running, handle), running.http() as http:
        first = http.post("/v1/chat/completions", json=BODY).json()
        models = http.get("/v1/models").json()
        until(lambda: not handle.loaded)
        assert figures(running)["gemlet_model_loaded", "one"] == 0
        assert figures(running)["gemlet_prefix_cache_bytes", "one"] == 0
        # What is known of it is told all the same, and does not open it.
        assert http.get("/v1/models").json() == models and http.get("/ready").status_code == 200
        assert http.get("/v1/models/one").json() == models["data"][0]
        assert http.get("/api/tags").json()["models"][0]["name"] == "one"
        assert http.get("/status").json()["models"][0]["loaded"] is False
        assert not handle.loaded and len(opening.opened) == 1
        again = http.post("/v1/chat/completions", json=BODY).json()
        assert len(opening.opened) == 2
        assert again["choices"] == first["choices"]
        assert again["system_fingerprint"] == first["system_fingerprint"]
        assert figures(running)["gemlet_request_seconds_count", "one"] == 2  # also those of the new one


def test_a_request_keeps_it_open_to_its_end() -> None:
    with resting(Opening(step=0.05), 0.1) as (running, handle), running.http() as http:
        with http.stream(
            "POST", "/v1/chat/completions", json=BODY | {"max_tokens": 20, "stream": True}
        ) as got:
            lines = []
            for line in got.iter_lines():
                lines.append(line)
                assert handle.loaded
        assert any('"finish_reason": "length"' in line for line in lines)
        until(lambda: not handle.loaded)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", BODY | {"stream": True}),
        ("/v1/completions", {"model": "one", "prompt": "wide", "max_tokens": 1}),
        ("/v1/responses", {"model": "one", "input": "wide", "max_output_tokens": 1}),
        ("/v1/embeddings", {"model": "one", "input": "wide"}),
        ("/tokenize", {"content": "wide"}),
        ("/detokenize", {"tokens": [300]}),
        ("/apply-template", {"messages": MESSAGES}),
        ("/api/chat", {"model": "one", "messages": MESSAGES, "options": {"num_predict": 1}}),
    ],
)
def test_every_route_opens_it(path: str, body: dict) -> None:
    opening = Opening()
    with resting(opening) as (running, handle), running.http() as http:
        handle.close_unused(0)
        assert http.post(path, json=body).status_code == 200
        assert len(opening.opened) == 2


def test_many_requests_wait_for_one_opening_and_others_go_on() -> None:
    opening = Opening(delay=0.5)
    with resting(opening, 60) as (running, handle), running.http() as http:
        assert handle.close_unused(0)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(http.post, "/v1/chat/completions", json=BODY) for _ in range(7)]
            asked.append(pool.submit(http.post, "/tokenize", json={"content": "wide"}))
            time.sleep(0.1)
            began = time.perf_counter()
            assert http.get("/health").status_code == 200
            assert not handle.loaded or time.perf_counter() - began > 0.3  # it was answered meanwhile
            assert all(one.result().status_code == 200 for one in asked)
        assert len(opening.opened) == 2


def test_a_failed_opening_is_told_and_tried_again() -> None:
    opening = Opening()
    with resting(opening, 60) as (running, handle), running.http() as http:
        handle.close_unused(0)
        for error in (ModelNotFoundError("there is no one.gguf"), MemoryError("no room"), OSError("gone")):
            opening.error = error
            for path, body in (("/v1/chat/completions", BODY), ("/tokenize", {"content": "x"})):
                answer = http.post(path, json=body)
                assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
                told = answer.json()["error"]
                assert told["code"] == "model_not_loaded" and str(error) in told["message"]
        opening.error = None
        assert http.post("/v1/chat/completions", json=BODY).status_code == 200


def test_who_leaves_does_not_end_the_opening() -> None:
    opening = Opening(delay=0.3)
    handle = Handle(opening(), opening)
    handle.close_unused(0)

    async def work() -> None:
        leaving, staying = asyncio.ensure_future(handle.ready()), asyncio.ensure_future(handle.ready())
        await asyncio.sleep(0.05)
        leaving.cancel()
        assert await staying is opening.opened[1]

    asyncio.run(work())
    assert len(opening.opened) == 2
    handle.close()


def test_closing_and_using_at_once() -> None:
    """Threads that use it while another closes it all the time: a held model is open."""
    opening = Opening()
    handle = Handle(opening(), opening)
    registry = Registry([handle])
    stop = threading.Event()

    def close() -> None:
        while not stop.is_set():
            handle.close_unused(0)
            time.sleep(0.0005)

    def use(number: int) -> None:
        for _ in range(30):
            handle.keep()
            try:
                assert len(registry.find("one").model.generate("wide", max_tokens=2).token_ids) >= 1
            finally:
                handle.let_go()
            time.sleep(0.001)

    closing = threading.Thread(target=close)
    closing.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(use, range(2)))
    finally:
        stop.set()
        closing.join()
    assert len(opening.opened) > 2
    handle.close()


def test_an_open_model_that_cannot_be_opened_again_stays() -> None:
    with fake_model(reference="one") as model:
        handle = Handle(model)
        assert not handle.close_unused(0) and handle.loaded
