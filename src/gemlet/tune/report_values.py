"""Values of a document that may lack any of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def at(document: Any, *names: str) -> Any:
    """What is found by going down these names; None where there is no such thing."""
    for name in names:
        if not isinstance(document, Mapping):
            return None
        document = document.get(name)
    return document


def number(document: Any, *names: str) -> float | None:
    """The same, where it is a finite number."""
    value = at(document, *names)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def ending(document: Mapping[str, Any]) -> str | None:
    """How the run ended; None where it has not said."""
    found = at(document, "run", "result", "ending") or at(document, "run", "result", "stopped")
    return found if isinstance(found, str) else None


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
