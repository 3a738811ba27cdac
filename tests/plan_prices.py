"""A table of prices for tests; the prices in it are invented."""

from __future__ import annotations

GOOD = """
currency = "EUR"   # ours
[machine]
watts = 65
price_per_kwh = 0.30
date = "2026-01-31"
source = 'the bill'

[[hosted]]
name = "some model"
input_per_million = 0.5
output_per_million = 2
date = "2026-02-28"
source = "https://example.org/prices"
"""
