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
from gemlet.serve.handle import Facts, Handle

HOSTED = re.compile(
    r"(gpt-|chatgpt-|o[134](-|$)|text-embedding-|text-davinci|davinci|babbage|codex-|claude-|gemini-).*"
)
"""Names of hosted models: a program that moves here by its URL alone still sends one of them."""


@dataclass(frozen=True)
class Served:
    """What one name stands for. `adapter` None: that of the model's own reference."""

    name: str
    handle: Handle
    adapter: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def model(self) -> Model:
        """The open model: a closed one is opened, while the caller waits. ApiError 503 when that fails."""
        return self.handle.model()

    @property
    def facts(self) -> Facts:
        """What is known of the model without opening it."""
        return self.handle.facts

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes an answer's bits."""
        manifest = self.facts.manifest
        return f"fp_{manifest.weights_sha256[:8]}_{manifest.instruction_set}_{manifest.engine_version}"

    def describe(self) -> dict[str, object]:
        """The object of `/v1/models`."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "gemlet",
            "context_length": self.facts.context,
            "chat_format": self.facts.has_chat_format,
            "adapters": sorted(self.facts.adapters),
            "weights": self.facts.manifest.weights_type,
        }


class Registry:
    """Models under their public names, and each of their adapters as NAME+ADAPTER.

    `handles` are the models, by the name that is theirs alone.
    """

    def __init__(self, models: Iterable[Model | Handle]) -> None:
        self._served: dict[str, Served] = {}
        self.handles: dict[str, Handle] = {}
        for model in models:
            handle = Handle(model) if isinstance(model, Model) else model
            name = public_name(handle.facts.reference) or "model"
            if name in self._served:
                raise InvalidRequestError(f"two models would be served as {name}")
            self.handles[name] = handle
            self._served[name] = Served(name, handle)
            for adapter in handle.facts.adapters:
                self._served.setdefault(f"{name}+{adapter}", Served(f"{name}+{adapter}", handle, adapter))
        if not self._served:
            raise InvalidRequestError("there is no model to serve")

    def all(self) -> list[Served]:
        """In the order they were given."""
        return list(self._served.values())

    def find(self, name: str | None) -> Served:
        """By name; the first for none and for a hosted model's. ApiError 404 for any other.

        Its model is not closed before the request that is being answered has ended.
        """
        if name is None or (name not in self._served and HOSTED.fullmatch(name)):
            found = next(iter(self._served.values()))
        else:
            found = self.named(name)
        found.handle.hold()
        return found

    def named(self, name: str) -> Served:
        """By its own name only. ApiError 404 for any other."""
        if name in self._served:
            return self._served[name]
        message = f"there is no model {name!r:.80}; served: {', '.join(self._served)}"
        raise ApiError(404, message, param="model", code="model_not_found")

    async def open(self, name: str | None) -> Served:
        """`find`, and the model is open when it comes back; others are served meanwhile."""
        served = self.find(name)
        await served.handle.ready()
        return served

    def close_unused(self, seconds: float) -> None:
        """Close the models that nobody has used for so long."""
        for handle in self.handles.values():
            handle.close_unused(seconds)


def public_name(reference: str) -> str:
    """What clients call a model: its reference, of a path the file's name only."""
    base, plus, adapter = reference.partition("+")
    if base.endswith((".gguf", "/")) or base.startswith(("/", ".", "~")):
        base = Path(base).name.removesuffix(".gguf")
    return f"{base}+{Path(adapter).name}" if plus else base
