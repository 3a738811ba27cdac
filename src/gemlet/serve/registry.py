"""The models that are served, by the names that clients use."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gemlet.errors import InvalidRequestError
from gemlet.infer.chat import Model
from gemlet.serve.errors import ApiError

HOSTED = re.compile(
    r"(gpt-|chatgpt-|o[134](-|$)|text-embedding-|text-davinci|davinci|babbage|codex-|claude-|gemini-).*"
)
"""Names of hosted models: a program that moves here by its URL alone still sends one of them."""


@dataclass(frozen=True)
class Served:
    """What one name stands for. `adapter` None: that of the model's own reference."""

    name: str
    model: Model
    adapter: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes an answer's bits."""
        manifest = self.model.manifest
        return f"fp_{manifest.weights_sha256[:8]}_{manifest.instruction_set}_{manifest.engine_version}"

    def describe(self) -> dict[str, object]:
        """The object of `/v1/models`."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "gemlet",
            "context_length": self.model.context,
            "chat_format": self.model.has_chat_format,
            "adapters": sorted(self.model.adapters),
            "weights": self.model.manifest.weights_type,
        }


class Registry:
    """Open models under their public names, and each of their adapters as NAME+ADAPTER."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._served: dict[str, Served] = {}
        for model in models:
            name = public_name(model.reference) or "model"
            if name in self._served:
                raise InvalidRequestError(f"two models would be served as {name}")
            self._served[name] = Served(name, model)
            for adapter in model.adapters:
                self._served.setdefault(f"{name}+{adapter}", Served(f"{name}+{adapter}", model, adapter))
        if not self._served:
            raise InvalidRequestError("there is no model to serve")

    def all(self) -> list[Served]:
        """In the order they were given."""
        return list(self._served.values())

    def find(self, name: str | None) -> Served:
        """By name; the first for none and for a hosted model's. ApiError 404 for any other."""
        if name is not None and (known := self._served.get(name)) is not None:
            return known
        if name is None or HOSTED.fullmatch(name):
            return next(iter(self._served.values()))
        message = f"there is no model {name!r}; served: {', '.join(self._served)}"
        raise ApiError(404, message, param="model", code="model_not_found")


def public_name(reference: str) -> str:
    """What clients call a model: its reference, of a path the file's name only."""
    base, plus, adapter = reference.partition("+")
    if base.endswith((".gguf", "/")) or base.startswith(("/", ".", "~")):
        base = Path(base).name.removesuffix(".gguf")
    return f"{base}+{Path(adapter).name}" if plus else base
