"""What was measured of this engine: constants of the forecasts, and the results that they were fitted to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("efficiency.json")

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Efficiency:
    """Fitted constants. Curves are points (rows, multiply-adds of the machine's peak that a weight costs).

    layers, head: curves by format. attention: the same for a product of attention, times the rows of a
    stream. layer_row: float multiply-adds besides, for each value of a row's hidden state in each layer.
    layer_s: seconds of a layer in any step. sharpness: how reading and computing overlap:
    time = (reading^p + computing^p)^(1/p).
    errors: by kind of forecast, the share that nine of ten measurements lie within. rates: multiply-adds a
    second of one core, by instruction set.
    """

    layers: Mapping[str, Curve]
    head: Mapping[str, Curve]
    attention: Curve
    layer_row: float
    layer_s: float
    sharpness: float
    runtime_bytes: int
    tokenizer_bytes_per_piece: float
    errors: Mapping[str, float]
    rates: Mapping[str, Mapping[str, float]]
    source: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Efficiency:
        """From the content of efficiency.json."""

        def curves(named: Mapping[str, Any]) -> dict[str, Curve]:
            return {name: tuple((x, y) for x, y in points) for name, points in named.items()}

        changed = {"layers": curves(document["layers"]), "head": curves(document["head"])}
        attention = tuple((x, y) for x, y in document["attention"])
        return cls(**{**document, **changed, "attention": attention})


def at(curve: Curve, rows: float) -> float:
    """A curve's value between its points, straight in logarithms; beyond the last it grows with the rows."""
    if rows <= curve[0][0]:
        return curve[0][1]
    for (x0, y0), (x1, y1) in pairwise(curve):
        if rows <= x1:
            share = log(rows / x0) / log(x1 / x0)
            return exp(log(y0) + share * log(y1 / y0))
    x, y = curve[-1]
    return y * rows / x


@cache
def measured() -> Efficiency:
    """The constants that come with gemlet."""
    return Efficiency.of(json.loads(DATA.read_text(encoding="utf-8")))
