"""A person's table of prices: every entry says when it was looked up, and where. None is built in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from math import isfinite
from pathlib import Path

from gemlet.errors import ConfigError
from gemlet.store.settings import parse_line

TEMPLATE = Path(__file__).with_name("prices.toml")
MOST_BYTES = 1 << 20
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Origin:
    """When a price was looked up, and where."""

    date: str
    source: str


@dataclass(frozen=True)
class MachinePrice:
    """What a machine costs: electricity, an instance by the hour, or both. None where not given."""

    watts: float | None
    price_per_kwh: float | None
    price_per_hour: float | None
    origin: Origin

    @property
    def an_hour(self) -> float:
        power = 0.0
        if self.watts is not None and self.price_per_kwh is not None:
            power = self.watts / 1000 * self.price_per_kwh
        return power + (self.price_per_hour or 0.0)


@dataclass(frozen=True)
class HostedPrice:
    """What a model behind an API asks for a million tokens."""

    name: str
    input_per_million: float
    output_per_million: float
    origin: Origin


@dataclass(frozen=True)
class Prices:
    """A table, in one currency."""

    currency: str
    machine: MachinePrice | None
    hosted: tuple[HostedPrice, ...]


@dataclass
class _Entry:
    """A section's values, and the lines that they stand in."""

    name: str
    where: str
    values: dict[str, object]
    lines: dict[str, str]

    def fail(self, key: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.lines.get(key, self.where)}: {self.name}: {key} {problem}")

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.fail(key, "must be filled in with text" if key in self.values else "is missing")
        return value.strip()

    def number(self, key: str) -> float:
        value = self.values.get(key)
        if value is None or value == "":
            raise self.fail(key, "must be filled in with a number" if value == "" else "is missing")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(key, f"must be a number, not {value!r}")
        if not isfinite(value) or value < 0:
            raise self.fail(key, f"must be a number from 0, not {value!r}")
        return float(value)

    def maybe(self, key: str) -> float | None:
        return self.number(key) if key in self.values else None

    def origin(self) -> Origin:
        day = self.text("date")
        try:
            valid = _DAY.fullmatch(day) is not None and date.fromisoformat(day) is not None
        except ValueError:
            valid = False
        if not valid:
            raise self.fail("date", f"must be a day such as 2026-01-31, not {day!r}")
        return Origin(day, self.text("source"))


_KEYS: Mapping[str, tuple[str, ...]] = {
    "prices": ("currency",),
    "machine": ("watts", "price_per_kwh", "price_per_hour", "date", "source"),
    "hosted": ("name", "input_per_million", "output_per_million", "date", "source"),
}


def read_prices(path: Path) -> Prices:
    """Read a table as the template shows it. ConfigError names the line and what it lacks."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path}: is larger than a table of prices can be")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "write a first one: gemlet plan --prices-template > prices.toml"
        raise ConfigError(f"{path}: there is no such file", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    top, *entries = _entries(text, path)
    machines = [_machine(entry) for entry in entries if entry.name == "machine"]
    hosted = tuple(_hosted(entry) for entry in entries if entry.name == "hosted")
    if len(machines) > 1:
        raise ConfigError(f"{path}: [machine] occurs {len(machines)} times")
    if not entries:
        raise ConfigError(f"{path}: holds no [machine] and no [[hosted]]")
    return Prices(top.text("currency"), machines[0] if machines else None, hosted)


def _entries(text: str, path: Path) -> list[_Entry]:
    entries = [_Entry("prices", str(path), {}, {})]
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path}:{number}"
        if header := re.fullmatch(r"\s*(\[machine\]|\[\[hosted\]\])\s*(#.*)?", line):
            entries.append(_Entry(header[1].strip("[]"), where, {}, {}))
            continue
        if line.lstrip().startswith("["):
            raise ConfigError(f"{where}: only [machine] and [[hosted]] are known, not {line.strip()!r}")
        if (pair := parse_line(line, where)) is None:
            continue
        entry, (key, value) = entries[-1], pair
        if key not in _KEYS[entry.name]:
            known = ", ".join(_KEYS[entry.name])
            raise ConfigError(f"{where}: {entry.name}: unknown key {key!r}", hint=f"known: {known}")
        if key in entry.values:
            raise ConfigError(f"{where}: {entry.name}: {key} is set twice, first at {entry.lines[key]}")
        entry.values[key], entry.lines[key] = value, where
    return entries


def _machine(entry: _Entry) -> MachinePrice:
    price = MachinePrice(
        entry.maybe("watts"), entry.maybe("price_per_kwh"), entry.maybe("price_per_hour"), entry.origin()
    )
    if (price.watts is None) != (price.price_per_kwh is None):
        raise entry.fail("watts" if price.watts is None else "price_per_kwh", "is missing beside the other")
    if price.watts is None and price.price_per_hour is None:
        raise entry.fail("price_per_hour", "is missing, and so are watts and price_per_kwh")
    return price


def _hosted(entry: _Entry) -> HostedPrice:
    prices = entry.number("input_per_million"), entry.number("output_per_million")
    return HostedPrice(entry.text("name"), *prices, entry.origin())
