"""`GET /metrics`: what the server did and holds, in Prometheus' text format. No text of anybody is in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gemlet.infer.requests import (
    AnswerRequest,
    Cancelled,
    Event,
    Failed,
    Outputs,
    Request,
    Sink,
    Started,
    Token,
    Watcher,
)
from gemlet.infer.scheduler import Occupancy
from gemlet.machine.memory import resident_bytes

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the format, as Prometheus asks for it."""

COUNTERS = {
    "gemlet_prompt_tokens": "Tokens of prompts that were read or taken from the cache",
    "gemlet_prompt_tokens_cached": "Those of them that an earlier request had read",
    "gemlet_generated_tokens": "Tokens that were chosen, those behind a stop text among them",
    "gemlet_prefix_cache_hits": "Requests that began with what an earlier one had read",
    "gemlet_prefix_cache_misses": "Requests that began with nothing",
    "gemlet_draft_tokens": "Guessed tokens that were checked",
    "gemlet_draft_tokens_accepted": "Guessed tokens that were the ones chosen",
}
"""Counters of each model: name, to which `_total` is added, and meaning."""

HISTOGRAMS = {
    "gemlet_queue_seconds": (
        "From a request's arrival to its first step",
        (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    ),
    "gemlet_time_to_first_token_seconds": (
        "From a request's arrival to its first token",
        (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
    ),
    "gemlet_time_between_tokens_seconds": (
        "From one token of an answer to the next",
        (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5),
    ),
    "gemlet_request_seconds": (
        "From a request's arrival to its end, whatever that was",
        (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
    ),
}
"""Histograms of each model: meaning and buckets."""

GAUGES: dict[str, tuple[str, Callable[[Occupancy], int]]] = {
    "gemlet_requests_processing": ("Answers that are being computed", lambda now: now.running),
    "gemlet_requests_deferred": ("Requests that wait in the queue", lambda now: now.waiting),
    "gemlet_kv_reserved_bytes": (
        "What the states of running answers may grow to",
        lambda now: now.reserved_bytes,
    ),
    "gemlet_prefix_cache_bytes": ("Kept of earlier prompts, in memory", lambda now: now.prefix_bytes),
}
"""What a model holds at the moment."""

EMPTY = Occupancy(0, 0, 0, 0)

Occupied = Callable[[], Iterable[tuple[str, Occupancy | None]]]
"""Each model's name and what it holds; None for one that is not loaded."""


class Metrics:
    """The figures of one server. `answered` is for any thread, as are watchers."""

    def __init__(self, occupied: Occupied) -> None:
        self._registry = _Registry()
        self._registry.register(_Now(occupied))
        self._counters = {
            name: Counter(name, meaning, ["model"], registry=self._registry)
            for name, meaning in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(name, meaning, ["model"], buckets=buckets, registry=self._registry)
            for name, (meaning, buckets) in HISTOGRAMS.items()
        }
        self._answered = Counter(
            "gemlet_http_requests",
            "Requests by route and by how they ended: 499 is a client that did not wait",
            ["route", "status"],
            registry=self._registry,
        )

    def watcher(self, model: str) -> Watcher:
        """What makes a model's requests count. `model` is the name that is shown."""
        counters = {name: counter.labels(model) for name, counter in self._counters.items()}
        histograms = {name: histogram.labels(model) for name, histogram in self._histograms.items()}

        def watch(request: Request) -> Sink:
            return _Watch(request, counters, histograms).take

        return watch

    def answered(self, route: str, status: int) -> None:
        """A request has ended. `route` is the pattern, not what was asked for."""
        self._answered.labels(route, status).inc()

    def text(self) -> bytes:
        """The document."""
        return generate_latest(self._registry)


class _Registry(CollectorRegistry):
    """Without the times at which each series began: no query needs them, and they are half of the text."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class _Watch:
    """One request: counts its events, which come on the engine's thread."""

    def __init__(
        self, request: Request, counters: dict[str, Counter], histograms: dict[str, Histogram]
    ) -> None:
        self._prompt = len(request.ids)
        self._open = request.n if isinstance(request, AnswerRequest) else 1
        self._counters = counters
        self._histograms = histograms
        self._arrived = time.perf_counter()
        self._last: dict[int, Token] = {}

    def take(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started(event)
        elif isinstance(event, Token):
            self._token(event)
        elif isinstance(event, (Cancelled, Outputs)):
            self._choice_ended(1)
        elif isinstance(event, Failed):
            self._choice_ended(self._open)

    def _started(self, event: Started) -> None:
        self._count("gemlet_prompt_tokens", self._prompt)
        self._count("gemlet_prompt_tokens_cached", event.cached_tokens)
        self._count("gemlet_prefix_cache_hits" if event.cached_tokens else "gemlet_prefix_cache_misses", 1)
        self._observe("gemlet_queue_seconds", event.at - self._arrived)

    def _token(self, event: Token) -> None:
        before = self._last.get(event.index)
        if not self._last:
            self._observe("gemlet_time_to_first_token_seconds", event.at - self._arrived)
        elif before is not None:
            self._observe("gemlet_time_between_tokens_seconds", event.at - before.at)
        self._last[event.index] = event
        self._count("gemlet_generated_tokens", 1)
        self._count("gemlet_draft_tokens", event.drafted - (before.drafted if before else 0))
        self._count("gemlet_draft_tokens_accepted", event.accepted - (before.accepted if before else 0))
        if event.finish is not None:
            self._choice_ended(1)

    def _choice_ended(self, choices: int) -> None:
        self._open -= choices
        if self._open == 0:
            self._observe("gemlet_request_seconds", time.perf_counter() - self._arrived)

    def _count(self, name: str, amount: int) -> None:
        if amount:
            self._counters[name].inc(amount)

    def _observe(self, name: str, seconds: float) -> None:
        self._histograms[name].observe(seconds)


class _Now(Collector):
    """What is looked up when somebody asks."""

    def __init__(self, occupied: Occupied) -> None:
        self._occupied = occupied

    def collect(self) -> Iterator[GaugeMetricFamily]:
        models = list(self._occupied())
        for name, (meaning, value) in GAUGES.items():
            gauge = GaugeMetricFamily(name, meaning, labels=["model"])
            for model, now in models:
                gauge.add_metric([model], value(now or EMPTY))
            yield gauge
        loaded = GaugeMetricFamily("gemlet_model_loaded", "1 for a model in memory", labels=["model"])
        for model, now in models:
            loaded.add_metric([model], now is not None)
        yield loaded
        yield GaugeMetricFamily(
            "gemlet_resident_memory_bytes",
            "Memory of the process, mapped weights among it; 0 where the system does not tell",
            resident_bytes(),
        )
