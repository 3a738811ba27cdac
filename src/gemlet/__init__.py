"""Gemma 3 on your own machine.

    import gemlet

    with gemlet.load("gemma-3-1b-it") as model:
        print(model.generate("The capital of France is", max_tokens=16).text)

Importing this loads no model, no numpy and no terminal library, and never uses the network: `load` and
`Model` are fetched when they are first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gemlet.errors import (
    ConfigError,
    ContextLengthError,
    ConversationError,
    DataError,
    DownloadError,
    GemletError,
    InvalidRequestError,
    LicenceError,
    MissingExtraError,
    ModelClosedError,
    ModelFileError,
    ModelNotFoundError,
    OutputError,
    QueueFullError,
    StateError,
    TextError,
    TrainingError,
    UnsupportedParameterError,
)
from gemlet.types import Completion, Message, Sampling, Score, TokenEvent
from gemlet.version import __version__

if TYPE_CHECKING:
    from gemlet.infer.chat import Model
    from gemlet.store.load import load

__all__ = [
    "Completion",
    "ConfigError",
    "ContextLengthError",
    "ConversationError",
    "DataError",
    "DownloadError",
    "GemletError",
    "InvalidRequestError",
    "LicenceError",
    "Message",
    "MissingExtraError",
    "Model",
    "ModelClosedError",
    "ModelFileError",
    "ModelNotFoundError",
    "OutputError",
    "QueueFullError",
    "Sampling",
    "Score",
    "StateError",
    "TextError",
    "TokenEvent",
    "TrainingError",
    "UnsupportedParameterError",
    "__version__",
    "load",
]

_LAZY = {"Model": "gemlet.infer.chat", "load": "gemlet.store.load"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'gemlet' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
