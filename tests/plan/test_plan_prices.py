"""A table of prices: what is missing is said with its line, and nothing is invented."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemlet.errors import ConfigError
from gemlet.plan.cost import Load, break_even, own_cost
from gemlet.plan.prices import TEMPLATE, Prices, read_prices
from tests.plan_prices import GOOD


def read(tmp_path: Path, text: str) -> Prices:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    return read_prices(path)


def test_a_whole_table(tmp_path: Path) -> None:
    prices = read(tmp_path, GOOD)
    assert prices.currency == "EUR"
    assert prices.machine is not None
    assert prices.machine.an_hour == pytest.approx(0.065 * 0.30)
    assert prices.machine.origin.source == "the bill"
    [hosted] = prices.hosted
    assert (hosted.input_per_million, hosted.output_per_million) == (0.5, 2.0)
    assert (hosted.origin.date, hosted.origin.source) == ("2026-02-28", "https://example.org/prices")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('date = "2026-01-31"\n', "", "machine: date is missing"),
        ('source = "https://example.org/prices"', "", "hosted: source is missing"),
        (
            'source = "https://example.org/prices"',
            'source = " "',
            "prices.toml:14: hosted: source must be filled",
        ),
        ('"2026-02-28"', '"2026-02-30"', "must be a day"),
        ('"2026-02-28"', '"yesterday"', "must be a day"),
        ("output_per_million = 2", 'output_per_million = ""', "output_per_million must be filled in"),
        ("output_per_million = 2", "output_per_million = -2", "from 0"),
        ("output_per_million = 2", 'output_per_million = "2"', "must be a number"),
        ("output_per_million = 2", "output_per_million = true", "must be a number"),
        ("output_per_million = 2", "output_per_million = nan", "not a TOML value"),
        ("watts = 65", "", "watts is missing"),
        ("watts = 65\nprice_per_kwh = 0.30", "", "price_per_hour is missing"),
        ("watts = 65", "wats = 65", "unknown key 'wats'"),
        ("watts = 65", "watts = 65\nwatts = 66", "set twice"),
        ("[machine]", "[machines]", "only [machine] and [[hosted]]"),
        ("[[hosted]]", "[machine]", "unknown key 'name'"),
        ("watts = 65", "watts 65", "cannot be read"),
        ('currency = "EUR"', "", "currency is missing"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as error:
        read(tmp_path, GOOD.replace(old, new))
    assert said in str(error.value)


def test_the_template_is_refused_until_it_is_filled_in() -> None:
    with pytest.raises(ConfigError, match="must be filled in"):
        read_prices(TEMPLATE)


def test_the_template_filled_in_is_a_table(tmp_path: Path) -> None:
    filled = TEMPLATE.read_text()
    for key in ("watts", "price_per_kwh", "price_per_hour", "input_per_million", "output_per_million"):
        filled = filled.replace(f'{key} = ""', f"{key} = 1.5")
    filled = filled.replace('date = ""', 'date = "2026-01-01"').replace('= ""', '= "x"')
    prices = read(tmp_path, filled)
    assert prices.machine is not None
    assert prices.machine.an_hour == pytest.approx(1.5 + 1.5 * 1.5 / 1000)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"currency = 'EUR'"])
def test_files_that_are_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.toml").write_bytes(content)
    with pytest.raises(ConfigError):
        read_prices(tmp_path / "p.toml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--prices-template"):
        read_prices(tmp_path / "none.toml")


def test_break_even_is_where_both_cost_the_same(tmp_path: Path) -> None:
    prices = read(tmp_path, GOOD)
    assert prices.machine is not None
    load = Load(prompt=1000, answer=200, seconds=10.0)
    found = break_even(prices.machine, prices.hosted[0], load)
    assert found.hosted_request == pytest.approx((1000 * 0.5 + 200 * 2) / 1e6)
    assert found.requests_a_day is not None
    assert found.requests_a_day * found.hosted_request == pytest.approx(24 * prices.machine.an_hour)
    busy = break_even(prices.machine, prices.hosted[0], Load(1000, 200, seconds=200.0))
    assert busy.requests_a_day is None  # it cannot answer so many
    own = own_cost(prices.machine, load, 100.0, 20.0)
    assert own.a_request == pytest.approx(prices.machine.an_hour / 360)
    assert own.million_written == pytest.approx(5 * own.million_read)
