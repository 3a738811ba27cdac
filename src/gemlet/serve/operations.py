"""What those ask who run the server: whether it lives, what it holds, what it did. No key is needed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response

from gemlet.infer.scheduler import Occupancy
from gemlet.machine.memory import resident_bytes
from gemlet.serve.document import ServerState, Status, answers
from gemlet.serve.metrics import EMPTY, MEDIA_TYPE, Metrics
from gemlet.serve.registry import Registry
from gemlet.version import __version__

OFTEN = 10.0
"""Seconds after which the server looks again for models that nobody uses, at most."""


def metrics_of(registry: Registry) -> Metrics:
    """The figures of these models, whose requests are counted from now on."""

    def occupied() -> Iterator[tuple[str, Occupancy | None]]:
        for name, handle in registry.handles.items():
            yield name, handle.occupancy()

    metrics = Metrics(occupied)
    for name, handle in registry.handles.items():
        handle.watch(metrics.watcher(name))
    return metrics


def add_routes(app: FastAPI, registry: Registry, metrics: Metrics) -> None:
    """The routes for supervisors."""
    since = time.time()

    @app.get("/health", responses=answers(Status))
    async def health() -> Any:
        return {"status": "ok"}

    @app.get("/ready", responses=answers(Status))
    async def ready() -> Any:
        return {"status": "ready", "models": [served.name for served in registry.all()]}

    plain = {"description": "figures in Prometheus' text format", "content": {"text/plain": {}}}

    @app.get("/metrics", responses={200: plain}, response_class=Response)
    async def figures() -> Response:
        return Response(metrics.text(), media_type=MEDIA_TYPE)

    @app.get("/status", responses=answers(ServerState))
    async def status() -> Any:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "since": since,
            "models": [_model(name, handle.occupancy()) for name, handle in registry.handles.items()],
            "resident_bytes": resident_bytes(),
        }


def _model(name: str, now: Occupancy | None) -> dict[str, Any]:
    held = now or EMPTY
    return {"id": name, "loaded": now is not None, "running": held.running, "waiting": held.waiting}


def unloading(
    registry: Registry, after: float | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]] | None:
    """The life of an application that closes models which nobody has used for `after` seconds."""
    if after is None:
        return None
    seconds = after

    async def look() -> None:
        while True:
            await asyncio.sleep(min(seconds / 4, OFTEN))
            await asyncio.to_thread(registry.close_unused, seconds)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.ensure_future(look())
        try:
            yield
        finally:
            looking.cancel()

    return life
