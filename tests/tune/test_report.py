"""The report: from files alone, of what there is, with every text that it is given harmless."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemlet.errors import ModelFileError
from gemlet.store.load import load
from gemlet.tune.data import Prompt
from gemlet.tune.data_report import DataReport, Found, SplitReport
from gemlet.tune.evaluate_run import evaluate_run
from gemlet.tune.evaluation import HeldOut, Options
from gemlet.tune.markup import tag, text
from gemlet.tune.report import terminal_summary, write_report
from gemlet.tune.report_charts import Line, line_chart, smoothed, thinned, ticks
from tests.tune.evaluated import HELD_OUT, examples, prompts, write_lora, write_model

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' &\x00\x1b\ud800\u202e]]>"


def data_report(word: str) -> dict[str, Any]:
    split = SplitReport(3, 90, 40, {"0.5": 20, "1.0": 60}, {32: 2, 64: 1}, ((f"{word}:3", 60),))
    none = Found(0, ())
    return DataReport(
        files={f"{word}.jsonl": "a" * 64},
        shapes={f"{word}.jsonl": "messages"},
        splits={"train": split, word: split},
        duplicates={"train": Found(1, (f"{word}:2",))},
        duplicates_across=Found(2, (f"{word}:1", f"{word}:5")),
        near_copies_across=none,
        groups_across=none,
        length=64,
        cut=none,
        tokens_left_out=0,
        dropped=none,
        changed={},
        secrets={word: Found(1, (f"{word}:9",))},
        notes=(word,),
    ).as_json()


def write_run(folder: Path, word: str = "train", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "gemlet_tune": 1,
        "method": "lora",
        "base": {"reference": f"{word}-model", "weights_sha256": "b" * 64},
        "data": {"path": f"{word}.jsonl", "sha256": "c" * 64, "report": data_report(word)},
        "settings": {"epochs": 3, "lora": {"rank": 16, "targets": [word, "attn_k"]}, "learning_rate": 2e-4},
        "forecast": {
            "seconds": 100.0,
            "memory_bytes": 2_000_000_000,
            "tokens_per_s": 300.0,
            "disk_bytes": 5e6,
        },
        "result": {
            "ending": "finished",
            "steps": 40,
            "tokens": 40_000,
            "seconds": 80.0,
            "wall_seconds": 110.0,
            "peak_memory_bytes": 1_500_000_000,
            "best_step": 20,
        },
        "machine": {"processor": word},
        "versions": {"gemlet": "0", word: "1"},
    } | changes
    (folder / "run.json").write_text(json.dumps(run), "utf-8")
    lines = [{"step": 0, "valid_loss": 3.0}]
    for step in range(1, 41):
        loss = 3 * 0.95**step + 0.2 * float(np.sin(step))
        lines.append({"step": step, "loss": loss, "lr": 1e-4, "grad_norm": 1.0, "tokens_per_s": 400.0 + step})
        if step % 10 == 0:
            lines.append({"step": step, "valid_loss": 1 + abs(step - 20) / 40})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


class Elements(HTMLParser):
    """Elements and attributes, as a browser's tokenizer sees them, and whether they close in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with an adapter, evaluated on prompts and answers that are hostile."""
    folder = write_lora(tmp_path_factory.mktemp("run") / "a+b", 3.0)
    word = HOSTILE.replace("\ud800", "")  # data with half a surrogate pair is refused
    hostile = tuple(
        Prompt(None, f"{prompt.text} <b>{word}</b>", (), word, f"<i>{prompt.source}") for prompt in prompts(4)
    )
    model = write_model(folder.parent)
    held_out = HeldOut(examples(10), hostile, "<s>test</s>")
    evaluate_run(str(model), folder, held_out, Options(budget_s=0), threads=1)
    write_run(folder, HOSTILE)
    return folder


def test_a_run_is_evaluated_with_the_adapter_that_it_left(evaluated: Path) -> None:
    found = json.loads((evaluated / "evaluation.json").read_text("utf-8"))
    assert found["before"]["adapter_sha256"] is None and found["after"]["adapter_sha256"]
    assert found["text"]["kl"]["estimate"] > 0
    assert len(found["moved"]) == 14 and found["moved"][0]["relative"] > 0


def test_a_whole_model_is_evaluated_beside_its_base(tmp_path: Path) -> None:
    base, tuned = write_model(tmp_path), write_model(tmp_path, seed=1)
    held_out = HeldOut(examples(3))
    found = evaluate_run(str(base), tmp_path, held_out, Options(budget_s=0), tuned=tuned, threads=1)
    assert found["after"]["weights_sha256"] != found["before"]["weights_sha256"]
    assert {moved["name"] for moved in found["moved"]} >= {"token_embd", "blk.1.ffn_up", "output_norm"}


def test_hostile_text_stays_text(evaluated: Path) -> None:
    written = write_report(evaluated)
    page = written.page.read_text("utf-8")
    elements = Elements(page)
    assert not elements.open
    assert not {"script", "img", "iframe", "link", "object", "b<", "s"} & set(elements.names)
    assert not [name for name, _ in elements.attributes if name.startswith("on") or name in ("src", "href")]
    assert "alert(1)" in "".join(elements.texts)  # it is shown
    assert not re.search("[\0\x1b\ud800]", page)
    assert json.loads(written.report.read_bytes())["run"]["base"]["reference"].startswith("</script>")


def test_the_page_asks_nothing_of_anyone(evaluated: Path) -> None:
    page = write_report(evaluated).page.read_text("utf-8")
    policies = [
        value for name, value in Elements(page).attributes if name == "content" and "default" in str(value)
    ]
    assert str(policies[0]).startswith("default-src 'none'")
    style = re.findall("<style>(.*?)</style>", page, re.S)[0]
    assert not re.search(r"@import|url\(", style)
    assert not re.search(r"https?:", page)


def test_what_the_report_says(evaluated: Path) -> None:
    document = write_report(evaluated).document
    evaluation = json.loads((evaluated / "evaluation.json").read_text("utf-8"))
    assert document["verdict"]["headline"] == evaluation["verdict"]["headline"]
    warnings = "\n".join(document["warnings"])
    assert "2 held-out lines are copies of training lines" in warnings
    assert "validation loss rose after step 20" in warnings
    assert [entry["step"] for entry in document["validation"]] == [0, 10, 20, 30, 40]
    page = "".join(Elements((evaluated / "report.html").read_text("utf-8")).texts)
    says = ("best: 1 at step 20", "110 %", "2.00 GB", "blk.1.ffn_down", "Side by side", "c" * 64)
    assert not [said for said in says if said not in page]
    summary = terminal_summary(document)
    assert summary[0].startswith(document["verdict"]["headline"])
    assert any("KL" in line for line in summary)


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({"result": {"ending": "interrupted", "steps": 3}}, "Not finished"),
        ({"result": None, "forecast": None, "data": None, "settings": None}, "Not finished"),
        ({"result": {"ending": "finished"}}, "Not evaluated"),
        ({"base": [], "data": {"report": {"splits": 3, "secrets": []}}, "machine": "x"}, "Not evaluated"),
    ],
)
def test_parts_that_are_missing(tmp_path: Path, changes: dict[str, Any], headline: str) -> None:
    written = write_report(write_run(tmp_path, **changes))
    assert written.document["verdict"]["headline"] == headline
    assert not Elements(written.page.read_text("utf-8")).open
    assert terminal_summary(written.document)[0].startswith(headline)


def test_no_log_and_a_torn_log(tmp_path: Path) -> None:
    write_run(tmp_path)
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"step": 41, "lo\n[1]\n{"step": "x"}\n{"step": 42, "loss": NaN}\n')
    document = write_report(tmp_path).document
    assert "4 lines of log.jsonl cannot be read" in document["warnings"]
    assert len(document["steps"]) == 40
    log.unlink()
    assert "there is no log of the run" in write_report(tmp_path).document["warnings"]


def test_an_evaluation_that_is_none(tmp_path: Path) -> None:
    write_run(tmp_path)
    for content in ("{", "[]", '{"gemlet_evaluation": 2}'):
        (tmp_path / "evaluation.json").write_text(content)
        document = write_report(tmp_path).document
        assert document["evaluation"] is None
        assert document["verdict"]["headline"] == "Not evaluated"
    hollow = {
        "gemlet_evaluation": 1,
        "verdict": {},
        "loss": 3,
        "text": [],
        "samples": [1, {}],
        "moved": [None, {}],
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(hollow))
    assert not Elements(write_report(tmp_path).page.read_text("utf-8")).open


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"run\.json"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_evaluation_is_shown_as_far_as_it_went(tmp_path: Path) -> None:
    folder = write_lora(write_run(tmp_path / "run"), 0.0)
    model = write_model(tmp_path)
    evaluate_run(str(model), folder, HELD_OUT, Options(stop=lambda: True), threads=1)
    document = write_report(folder).document
    assert any("evaluation was interrupted" in line for line in document["warnings"])
    with load(f"{model}+{folder}", threads=1) as opened:
        assert opened.manifest.adapter_sha256


# --- Pictures


def test_markup_is_escaped_once() -> None:
    inner = tag("b", "<&>")
    assert tag("p", inner, '"', title='a"b') == '<p title="a&quot;b"><b>&lt;&amp;&gt;</b>&quot;</p>'
    assert text("a\0b") == "a\ufffdb"


def test_smoothing_begins_where_the_values_do() -> None:
    assert smoothed([2.0] * 7) == pytest.approx([2.0] * 7)
    values = smoothed([0.0] * 50 + [1.0] * 50)
    assert 0 < values[51] < 0.7 and values[-1] > 0.99
    assert smoothed([]) == []


def test_many_points_are_thinned_to_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    found = thinned(points, 100)
    assert len(found) == 100
    assert all(y == 0.5 for _, y in found)
    assert thinned(points[:5]) == points[:5]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 1e6), (1e-5, 2e-5), (5.0, 5.1)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high, 4)
    assert 2 <= len(found) <= 9
    assert all(low - 1e-9 * abs(low) <= tick <= high * (1 + 1e-9) for tick in found)


@pytest.mark.parametrize(
    "points", [[], [(1.0, 2.0)], [(1.0, 2.0), (2.0, 2.0)], [(0.0, -1e300), (1.0, 1e300)]]
)
def test_charts_of_little(points: list[tuple[float, float]]) -> None:
    picture = line_chart("t", [Line("a", points, "first")], from_zero=True)
    assert not Elements(picture).open
    assert "nan" not in picture and "inf" not in picture
