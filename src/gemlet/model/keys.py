"""Reading keys of a model file's description: types and ranges checked, leftovers known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from gemlet.errors import ModelFileError

REQUIRED: Any = object()
MOST = 1 << 24


class Keys:
    """The keys of one file under a prefix. Each reader returns a checked value, or the default without one.

    A missing key without a default, a wrong type or a value out of range raises ModelFileError naming it.
    """

    def __init__(self, path: str, values: Mapping[str, Any], prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix
        self._read: set[str] = set()

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ModelFileError(self.path, self._prefix + key, problem)

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """The raw value."""
        self._read.add(self._prefix + key)
        value = self._values.get(self._prefix + key, default)
        if value is REQUIRED:
            self.fail(key, "is missing, and a default would describe another model")
        return value

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._values

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 1, most: int = MOST) -> int:
        value = self.get(key, default)
        if type(value) is not int or not least <= value <= most:
            self.fail(key, f"must be a whole number from {least} to {most}, not {str(value)[:40]!r}")
        return value

    def number(self, key: str, default: Any = REQUIRED, *, least: float = 1e-30, most: float = 1e30) -> float:
        """A number, positive unless `least` says otherwise."""
        value = self.get(key, default)
        if type(value) not in (int, float) or not least <= value <= most:  # NaN is in no range
            self.fail(key, f"must be a number from {least:g} to {most:g}, not {str(value)[:40]!r}")
        return float(value)

    def text(self, key: str, default: Any = REQUIRED) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            self.fail(key, "must be text")
        return value

    def flag(self, key: str, default: Any = REQUIRED) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.fail(key, "must be true or false")
        return value

    def ids(self, key: str) -> tuple[int, ...]:
        """A token id, a list of them, or none."""
        value = self.get(key, None)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if len(ids) > 64 or not all(type(item) is int and 0 <= item <= MOST for item in ids):
            self.fail(key, "must be a token id or a short list of them")
        return tuple(ids)

    def expect(self, key: str, *allowed: Any) -> None:
        """A key that may be absent, and may only have one of these values: others are not computed here."""
        value = self.get(key, allowed[0])
        if not any(value == item and type(value) is type(item) for item in allowed):
            self.fail(key, f"has the value {str(value)[:60]!r}, which is not supported")

    def names(self) -> list[str]:
        """Every key under the prefix, without it, in the file's order."""
        return [key.removeprefix(self._prefix) for key in self._values if key.startswith(self._prefix)]

    def unknown(self) -> list[str]:
        """Keys under the prefix that nothing has asked for."""
        return sorted(key for key in self._values if key.startswith(self._prefix) and key not in self._read)
