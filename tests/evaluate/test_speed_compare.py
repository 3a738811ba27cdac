"""Which stage moved, and whether it was the engine or the machine; made-up results with known causes."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from gemlet.errors import InvalidRequestError, ModelFileError
from gemlet.evaluate.speed_compare import LEVEL, compare, lines, read_result

NAMES = ("prefill 512", "decode", "decode, 8 streams", "first token after 16", "start to first token")


def made_up(
    seed: int, *, rounds: int = 7, engine: float = 1.0, machine: float = 1.0, noise: float = 0.03
) -> dict[str, Any]:
    """A result whose engine is `engine` times as good with a machine `machine` times as fast; decode only."""
    rng = random.Random(seed)
    stages = []
    for name in NAMES:
        unit = "s" if "token" in name else "tokens/s"
        up = -1 if unit == "s" else 1
        own = engine if name == "decode" else 1.0
        limit = [100 * (machine * math.exp(rng.gauss(0, noise))) ** up for _ in range(rounds)]
        shares = [0.6 * own * math.exp(rng.gauss(0, noise)) for _ in range(rounds)]
        values = [x * share**up for x, share in zip(limit, shares, strict=True)]
        known = name != "start to first token"
        stages.append(
            {
                "name": name,
                "unit": unit,
                "values": {"gemlet": values},
                "limit": limit if known else None,
                "shares": {"gemlet": shares} if known else None,
            }
        )
    return {
        "benchmark": "speed",
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "a" * 40,
        "machine": {"processor": "X"},
        "versions": {"gemlet": "1"},
        "files": {"m.gguf": {"sha256": "f" * 64}},
        "settings": {"threads": 2, "tokens": 32},
        "memory": {"rest": 50 << 20},
        "stages": stages,
    }


def verdicts(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["verdict"] for stage in compare(before, after)["stages"]}


def test_a_slower_engine_is_named_with_its_stage() -> None:
    found = verdicts(made_up(1), made_up(2, engine=0.85))
    assert found.pop("decode").startswith("engine slower by 1")
    assert all(verdict.startswith("not moved") for verdict in found.values())


def test_a_slower_machine_is_not_the_engine() -> None:
    found = verdicts(made_up(1), made_up(2, machine=0.7))
    assert found["start to first token"] == "slower, engine or machine"
    for name in NAMES[:-1]:
        assert found[name] == "machine slower, engine as before"


def test_an_engine_that_a_faster_machine_hides_is_found() -> None:
    verdict = verdicts(made_up(1), made_up(2, engine=0.8, machine=1.25))["decode"]
    assert verdict.startswith("engine slower by ") and verdict.endswith("and the machine faster")


def test_limits_that_vary_too_much_leave_it_open() -> None:
    before, after = made_up(1), made_up(2, engine=0.8)
    for result, seed in ((before, 3), (after, 4)):
        (decode,) = [stage for stage in result["stages"] if stage["name"] == "decode"]
        rng = random.Random(seed)
        factors = [math.exp(rng.gauss(0, 0.8)) for _ in range(7)]
        decode["limit"] = [limit * factor for limit, factor in zip(decode["limit"], factors, strict=True)]
        decode["shares"]["gemlet"] = [
            value / limit for value, limit in zip(decode["values"]["gemlet"], decode["limit"], strict=True)
        ]
    assert verdicts(before, after)["decode"].startswith("slower, engine or machine: the limits varied")


def test_a_faster_engine() -> None:
    comparison = compare(made_up(1), made_up(2, engine=1.3))
    (decode,) = [stage for stage in comparison["stages"] if stage["name"] == "decode"]
    assert decode["verdict"].startswith("engine faster by ")
    assert decode["engine"]["low"] < 1.3 < decode["engine"]["high"]
    assert any("decode" in line and "engine faster" in line for line in lines(comparison))


def test_nothing_moved_is_said_of_nothing_oftener_than_the_level() -> None:
    """Among 200 pairs of the same engine and machine, few may have any stage whose engine moved."""
    wrong = sum(
        any(v.startswith("engine") for v in verdicts(made_up(2 * i), made_up(2 * i + 1)).values())
        for i in range(200)
    )
    assert wrong <= 200 * LEVEL + 3 * math.sqrt(200 * LEVEL * (1 - LEVEL))


def test_too_few_rounds_say_so() -> None:
    comparison = compare(made_up(1, rounds=3), made_up(2, rounds=3, engine=0.5))
    assert {stage["verdict"] for stage in comparison["stages"]} == {"too few rounds to tell"}
    assert any("only 3 rounds" in note for note in comparison["notes"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": {"m.gguf": {"sha256": "0" * 64}}}, "differ in files"),
        ({"settings": {"threads": 4, "tokens": 32}}, "differ in threads: 2 before, 4 now"),
        ({"settings": {"threads": 2, "tokens": 16}}, "differ in tokens"),
        ({"stages": []}, "no stage in common"),
    ],
)
def test_other_work_is_not_compared(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        compare(made_up(1), made_up(2) | change)


def test_notes() -> None:
    after = made_up(2) | {"machine": {"processor": "Y"}, "memory": {"rest": 60 << 20}, "commit": "b" * 40}
    notes = " ".join(compare(made_up(1), after)["notes"])
    for words in ("another machine: X before, Y now", "commit aaaaaaaaa", "50.0 MiB before, 60.0 MiB now"):
        assert words in notes


def test_files_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(made_up(1)))
    assert read_result(path)["stages"][0]["name"] == "prefill 512"
    for damage in ("values", "limit", "shares"):
        document = made_up(1)
        document["stages"][1][damage] = {"gemlet": [0.0]} if damage != "limit" else [-1.0]
        path.write_text(json.dumps(document))
        with pytest.raises(InvalidRequestError, match="lacks its values"):
            read_result(path)
    path.write_text('{"benchmark": "other"}')
    with pytest.raises(InvalidRequestError, match="no result of gemlet bench speed"):
        read_result(path)
    path.write_text("{")
    with pytest.raises(ModelFileError):
        read_result(path)
