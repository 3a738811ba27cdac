"""The adapters of an open model, by name: each request may be computed with another of them, or with none."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gemlet.errors import InvalidRequestError
from gemlet.model.adapters import AdapterFile, read_adapter
from gemlet.model.config import ModelConfig
from gemlet.ops.batch import Adapter
from gemlet.ops.operations import LowRank
from gemlet.types import AdapterInfo

BASE = "base"
"""The name that asks for the model without an adapter."""


class Adapting(Protocol):
    """The part of a decoder that adapters need."""

    @property
    def config(self) -> ModelConfig: ...
    def adapter(self, parts: Mapping[str, LowRank]) -> Adapter: ...


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter ready to compute with."""

    info: AdapterInfo
    computed: Adapter


class Adapters:
    """Adapters by name; `default` is that of requests that name none. Safe to use from several threads."""

    def __init__(self, decoder: Adapting, weights_sha256: str) -> None:
        self._decoder = decoder
        self._weights_sha256 = weights_sha256
        self._lock = threading.Lock()
        self._loaded: dict[str, LoadedAdapter] = {}
        self.default: str = BASE

    def load(self, path: str | Path, name: str | None = None) -> AdapterInfo:
        """Read a PEFT folder. It is called as the folder or its repository is, unless a name is given.

        Raises ModelFileError, InvalidRequestError for a name that another adapter has.
        """
        return self.add(read_adapter(path, self._decoder.config, self._weights_sha256), name)

    def add(self, file: AdapterFile, name: str | None = None) -> AdapterInfo:
        """Take in an adapter that was read for this model."""
        name = file.name if name is None else name
        if not isinstance(name, str) or not name or name == BASE:
            raise InvalidRequestError(
                f"{name!r} cannot be the name of an adapter", hint="give another: name=…"
            )
        computed = self._decoder.adapter(file.parts)
        info = AdapterInfo(
            name=name,
            path=file.path,
            sha256=file.sha256,
            rank=file.rank,
            modules=file.modules,
            parameters=file.parameters,
            nbytes=computed.nbytes,
            notices=file.notices,
        )
        with self._lock:
            known = self._loaded.get(name)
            if known is not None and known.info.sha256 != file.sha256:
                problem = f"there is another adapter named {name!r}, from {known.info.path}"
                raise InvalidRequestError(problem, hint="give this one another name, or unload that one")
            self._loaded.setdefault(name, LoadedAdapter(info, computed))
            return self._loaded[name].info

    def unload(self, name: str) -> None:
        """Forget an adapter. Requests that run with it end as they would have."""
        with self._lock:
            if name not in self._loaded:
                raise self._unknown(name)
            del self._loaded[name]
            if self.default == name:
                self.default = BASE

    def find(self, name: str | None) -> LoadedAdapter | None:
        """The adapter of a request that names this one, None for the base. InvalidRequestError."""
        with self._lock:
            wanted = self.default if name is None else name
            if wanted == BASE:
                return None
            if not isinstance(wanted, str) or wanted not in self._loaded:
                raise self._unknown(wanted)
            return self._loaded[wanted]

    def infos(self) -> dict[str, AdapterInfo]:
        """What there is, by name, in the order of loading."""
        with self._lock:
            return {name: adapter.info for name, adapter in self._loaded.items()}

    def _unknown(self, name: object) -> InvalidRequestError:
        return InvalidRequestError(
            f"there is no adapter named {name!r}", hint=f"there is {', '.join((BASE, *self._loaded))}"
        )
