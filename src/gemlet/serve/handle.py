"""A model that a server opens when it is needed and may close when it was not for long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gemlet.errors import GemletError
from gemlet.infer.chat import Model
from gemlet.infer.requests import Watcher
from gemlet.infer.scheduler import Occupancy
from gemlet.model.config import ModelConfig
from gemlet.serve.errors import RETRY_AFTER, ApiError
from gemlet.serve.running import at_its_end
from gemlet.types import AdapterInfo, Manifest, Sampling


@dataclass(frozen=True)
class Facts:
    """What is known of a model also while it is closed, under the names that `Model` has for it."""

    reference: str
    context: int
    has_chat_format: bool
    adapters: Mapping[str, AdapterInfo]
    config: ModelConfig
    manifest: Manifest
    sampling: Sampling


class Handle:
    """One model of a server. `reopen` opens it again after it was closed; None: it stays open.

    A request holds the model that it uses until its end; only one that nobody holds is closed. Safe to use
    from several threads.
    """

    def __init__(self, model: Model, reopen: Callable[[], Model] | None = None) -> None:
        self.facts = _facts(model)
        self._model: Model | None = model
        self._reopen = reopen
        self._watcher: Watcher | None = None
        self._lock = threading.Lock()  # guards _model, _holds and _used; held for moments
        self._holds = 0
        self._used = time.monotonic()
        self._changing = threading.Lock()  # held while the model is opened or closed
        self._opening: asyncio.Future[Model] | None = None

    @property
    def loaded(self) -> bool:
        """Whether the model is open."""
        return self._model is not None

    def watch(self, watcher: Watcher) -> None:
        """Have the model's requests watched, also after it was opened again."""
        self._watcher = watcher
        if self._model is not None:
            self._model.watch(watcher)

    def occupancy(self) -> Occupancy | None:
        """What the model holds now; None while it is closed."""
        model = self._model
        return None if model is None else model.occupancy()

    def hold(self) -> None:
        """Keep the model from being closed until the request that is being answered has ended."""
        self.keep()
        if not at_its_end(self.let_go):
            self.let_go()

    def keep(self) -> None:
        """Keep the model from being closed until `let_go`."""
        with self._lock:
            self._used = time.monotonic()
            self._holds += 1

    def let_go(self) -> None:
        """The end of a `keep`."""
        with self._lock:
            self._holds -= 1
            self._used = time.monotonic()

    def model(self) -> Model:
        """The open model, opened by this call if it has to be. ApiError 503 when that fails."""
        if (model := self._model) is not None:
            return model
        with self._changing:
            if self._model is None:
                assert self._reopen is not None
                try:
                    model = self._reopen()
                except (GemletError, OSError, MemoryError) as error:
                    raise _not_loaded(error) from error
                model.watch(self._watcher)
                self.facts = _facts(model)
                with self._lock:
                    self._model, self._used = model, time.monotonic()
            return self._model

    async def ready(self) -> Model:
        """`model` for an event loop: those who wait for the same model wait for one opening of it."""
        if (model := self._model) is not None:
            return model
        if self._opening is None:
            self._opening = asyncio.ensure_future(asyncio.to_thread(self.model))
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)  # who leaves does not end it for the others

    def close_unused(self, seconds: float) -> bool:
        """Close the model if nobody has used it for so long; whether it was."""
        with self._changing:
            with self._lock:
                idle = self._holds == 0 and time.monotonic() - self._used >= seconds
                model = self._model
                if self._reopen is None or model is None or not idle:
                    return False
                self._model = None
            model.close()
        return True

    def close(self) -> None:
        """Close the model."""
        with self._changing, self._lock:
            model, self._model = self._model, None
        if model is not None:
            model.close()

    def _opened(self, opening: asyncio.Future[Model]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # each who waits is told; when all have left, nobody is


def _facts(model: Model) -> Facts:
    return Facts(
        model.reference,
        model.context,
        model.has_chat_format,
        dict(model.adapters),
        model.config,
        model.manifest,
        model.sampling,
    )


def _not_loaded(error: Exception) -> ApiError:
    reason = error.message if isinstance(error, GemletError) else str(error) or type(error).__name__
    message = f"the model could not be loaded: {reason}"
    headers = {"Retry-After": str(RETRY_AFTER)}
    return ApiError(503, message, type="server_error", code="model_not_loaded", headers=headers)
