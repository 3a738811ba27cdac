"""`GET /metrics`, read as Prometheus reads it: what requests change, and nothing of what they say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gemlet.infer.scheduler import Limits
from gemlet.serve.guard import Rules
from tests.infer.drafters import KnowingSpeculator
from tests.infer.fake_model import fake_decoder, fake_model
from tests.infer.test_leaving import idle
from tests.serve.conftest import Server, serving
from tests.serve.test_openai_client import MESSAGES, until

Figures = dict[tuple[str, str], float]
ANSWER = {"model": "gpt-4o", "messages": MESSAGES, "ignore_eos": True, "seed": 1}


def figures(server: Server, **labels: str) -> Figures:
    """The value of each sample by its name and its labels' values. Histograms: counts and sums."""
    with server.http() as http:
        answer = http.get("/metrics")
    kind = answer.headers["content-type"]
    assert answer.status_code == 200 and kind.startswith("text/plain; version=0.0.4")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.name.startswith("gemlet_") and family.documentation
        for sample in family.samples:
            assert not sample.name.endswith("_created")
            if not sample.name.endswith("_bucket"):
                found[sample.name, " ".join(sample.labels.values())] = sample.value
    return found


def grown(before: Figures, after: Figures, name: str, labels: str) -> float:
    return after[name, labels] - before.get((name, labels), 0.0)


@pytest.fixture
def one() -> Iterator[Server]:
    with fake_model(reference="one") as model, serving(model) as running:
        yield running


def test_an_answer_is_counted(one: Server) -> None:
    chat = one.client().chat.completions.create
    first = chat(model="one", messages=MESSAGES, max_tokens=9, seed=1, n=2, extra_body={"ignore_eos": True})
    before = figures(one)
    second = chat(model="one", messages=MESSAGES, max_tokens=5, seed=1, extra_body={"ignore_eos": True})
    assert idle(one.model)
    after = figures(one)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached > 0
    expected = {
        "gemlet_prompt_tokens_total": second.usage.prompt_tokens,
        "gemlet_prompt_tokens_cached_total": cached,
        "gemlet_generated_tokens_total": 5,
        "gemlet_prefix_cache_hits_total": 1,
        "gemlet_prefix_cache_misses_total": 0,
        "gemlet_queue_seconds_count": 1,
        "gemlet_time_to_first_token_seconds_count": 1,
        "gemlet_time_between_tokens_seconds_count": 4,
        "gemlet_request_seconds_count": 1,
    }
    assert {name: grown(before, after, name, "one") for name in expected} == expected
    assert before["gemlet_generated_tokens_total", "one"] == first.usage.completion_tokens == 18
    assert before["gemlet_prefix_cache_misses_total", "one"] == 1
    assert before["gemlet_time_between_tokens_seconds_count", "one"] == 16  # of each choice its own
    whole = grown(before, after, "gemlet_request_seconds_sum", "one")
    assert whole >= grown(before, after, "gemlet_time_to_first_token_seconds_sum", "one") > 0
    assert after["gemlet_prefix_cache_bytes", "one"] > 0
    assert after["gemlet_resident_memory_bytes", ""] > 2**20
    assert after["gemlet_model_loaded", "one"] == 1


def test_what_runs_and_waits_is_told() -> None:
    limits = Limits(32, sequences=1)
    body = ANSWER | {"max_tokens": 100, "stream": True}
    with (
        fake_model(fake_decoder(delay=0.03), limits=limits, reference="one") as model,
        serving(model) as busy,
        busy.http() as http,
    ):
        post = "POST", "/v1/chat/completions"
        with http.stream(*post, json=body), http.stream(*post, json=body):
            until(lambda: (model.occupancy().running, model.occupancy().waiting) == (1, 1))
            now = figures(busy)
            assert now["gemlet_requests_processing", "one"] == 1
            assert now["gemlet_requests_deferred", "one"] == 1
            assert now["gemlet_kv_reserved_bytes", "one"] > 0
        assert idle(model, 5)
        now = figures(busy)
        assert now["gemlet_requests_processing", "one"] == now["gemlet_requests_deferred", "one"] == 0
        assert now["gemlet_kv_reserved_bytes", "one"] == 0
        assert now["gemlet_request_seconds_count", "one"] == 2  # both were cancelled, one in the queue
        assert now["gemlet_queue_seconds_count", "one"] == 1
        until(lambda: figures(busy).get(("gemlet_http_requests_total", "/v1/chat/completions 499")) == 2)


def test_each_end_has_its_status_and_each_route_its_pattern(one: Server) -> None:
    with one.http() as http:
        http.post("/v1/chat/completions", json=ANSWER | {"max_tokens": 2})
        http.post("/v1/chat/completions", json=ANSWER | {"colour": "red"})
        http.get("/v1/models/one")
        http.get("/v1/models/secret-words")
        http.get("/secret-words")
        http.post("/tokenize", json={"content": "secret-words"})
        http.get("/health", headers={"host": "secret.words"})
    until(lambda: ("gemlet_http_requests_total", "other 421") in figures(one))
    now = {labels: value for (name, labels), value in figures(one).items() if name.endswith("requests_total")}
    now.pop("/metrics 200")
    assert now == {
        "/v1/chat/completions 200": 1,
        "/v1/chat/completions 400": 1,
        "/v1/models/{name:path} 200": 1,
        "/v1/models/{name:path} 404": 1,
        "/tokenize 200": 1,
        "other 404": 1,
        "other 421": 1,
    }
    with one.http() as http:
        assert "secret" not in http.get("/metrics").text


def test_drafts_are_counted_as_the_answer_counts_them() -> None:
    asked = {"max_tokens": 30, "ignore_eos": True, "seed": 1}
    with fake_model() as model:
        ids = model.chat(MESSAGES, **asked).token_ids
    guesser = KnowingSpeculator(lambda sequence: ids, lambda: 4, lambda: 2)
    with fake_model(reference="one", speculator=guesser) as model, serving(model) as running:
        done = model.chat(MESSAGES, **asked)
        now = figures(running)
    assert done.token_ids == ids
    drafted, accepted = (now[f"gemlet_draft_tokens{part}_total", "one"] for part in ("", "_accepted"))
    assert 0 < accepted < drafted and accepted / drafted == done.timings.draft_acceptance


def test_embeddings_are_read_and_not_answered(one: Server) -> None:
    one.client().embeddings.create(model="one", input=["area of a room"])
    now = figures(one)
    assert now["gemlet_prompt_tokens_total", "one"] > 0 and now["gemlet_request_seconds_count", "one"] == 1
    assert now["gemlet_generated_tokens_total", "one"] == 0
    assert now["gemlet_time_to_first_token_seconds_count", "one"] == 0


def test_no_key_is_needed() -> None:
    with fake_model(reference="one") as model, serving(model, Rules(keys=("k",))) as running:
        with running.http() as http:
            assert http.get("/v1/models").status_code == 401
        until(lambda: figures(running).get(("gemlet_http_requests_total", "other 401")) == 1)
