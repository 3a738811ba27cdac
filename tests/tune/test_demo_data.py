"""The demonstrations' data: what may be trained on, what is scored, and how."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.tune import chat, intents, lint_check, lint_fixes, score, table
from benchmarks.tune.answers import Answer, nearest
from benchmarks.tune.data_files import read_lines, write_data
from benchmarks.tune.judges import judge_chats, judge_fixes, judge_intents, says
from benchmarks.tune.sentences import Grammar, Value, parse

GRAMMAR = Grammar(
    {"the": parse("(the|my)"), "turn": parse("(turn|switch)")},
    {"area": [Value("kitchen", "kitchen"), Value("hall[way]", "hall")], "level": [Value("5", -5)]},
)


def drawn(template: str, times: int = 200) -> set[str]:
    random = Random(1)
    return {GRAMMAR.draw(parse(template), random)[0] for _ in range(times)}


# --- Sentence templates


@pytest.mark.parametrize(
    ("template", "sentences"),
    [
        ("(stop|cancel) it", {"stop it", "cancel it"}),
        ("stop [the|my] timer", {"stop timer", "stop the timer", "stop my timer"}),
        ("lights (on;now)", {"lights on now", "lights now on"}),
        ("<turn> [<the>] fan", {f"{a} {b}fan" for a in ("turn", "switch") for b in ("", "the ", "my ")}),
        ("5( |-)minute[s]", {"5 minute", "5-minute", "5 minutes", "5-minutes"}),
        ("a [[b] c]", {"a", "a c", "a b c"}),
    ],
)
def test_a_template_gives_all_its_sentences(template: str, sentences: set[str]) -> None:
    assert drawn(template) == sentences


def test_values_fill_their_slots() -> None:
    meanings = {
        (text, json.dumps(slots))
        for text, slots in (GRAMMAR.draw(parse("{area} down {level:step}"), Random(i)) for i in range(40))
    }
    assert meanings == {
        ("kitchen down 5", '{"area": "kitchen", "step": -5}'),
        ("hall down 5", '{"area": "hall", "step": -5}'),
        ("hallway down 5", '{"area": "hall", "step": -5}'),
    }


@pytest.mark.parametrize("template", ["(a", "a)", "[a)", "(a|b;c)", "a}"])
def test_a_broken_template_is_named(template: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(template))):
        parse(template)


@pytest.mark.parametrize("template", ["<turn> [<the>] {area} [light] on", "({area};now) [<the>] {level}"])
def test_a_pattern_matches_what_the_template_gives(template: str) -> None:
    pattern = GRAMMAR.pattern(parse(template))
    assert all(pattern.fullmatch("".join(sentence.split())) for sentence in drawn(template))
    assert not pattern.fullmatch("turnoffthekitchen")


# --- Voice commands


def home(templates: dict[str, list[str]]) -> dict[str, Any]:
    """A document as the package has it."""
    return {
        "intents": {
            intent: {"data": [{"sentences": texts, "slots": {"domain": "light"}}]}
            for intent, texts in templates.items()
        },
        "lists": {"brightness": {"range": {"from": 0, "to": 100}}, "color": {"values": []}},
        "expansion_rules": {"the": "(the|my)"},
    }


DOCUMENT = home(
    {
        "HassTurnOn": [
            f"{verb} [<the>] {{area}}" for verb in ["start", "begin", "enable", "light", "activate", "use"]
        ]
        + ["on with <the> {area}", "[<the>] {area} on"],
        "HassTurnOff": ["stop {area}", "end {area}", "off with {area}", "{area} off", "no {area}"],
        "HassLightSet": ["set {area} to {brightness}", "{brightness} in {area}", "{area} at {brightness}"],
    }
)
EACH = {"train": 6, "valid": 3, "test": 3}


def test_splits_share_no_template_and_no_command() -> None:
    lines = intents.build(DOCUMENT, EACH, seed=0)
    templates = {name: {row["template"] for row in rows} for name, rows in lines.items()}
    assert templates["train"] and templates["test"]
    assert not templates["train"] & (templates["test"] | templates["valid"])
    assert not templates["valid"] & templates["test"]
    rules = {name: parse(text) for name, text in DOCUMENT["expansion_rules"].items()}
    grammar = Grammar(rules, intents.lists_of(DOCUMENT, "all"))
    reach = [grammar.pattern(parse(text)) for text in templates["train"]]
    for row in lines["test"]:
        command = "".join(row["messages"][0]["content"].split())
        assert not any(pattern.fullmatch(command) for pattern in reach)


def test_a_command_that_training_could_give_is_left_out() -> None:
    # Every sentence of the second template is one of the first's.
    document = home({"HassTurnOn": ["light [up] {area}", "light up {area}", "a {area}", "b {area}"]})
    for seed in range(12):
        lines = intents.build(document, EACH, seed)
        in_train = {row["template"] for row in lines["train"]}
        if "light [up] {area}" in in_train:
            assert not any(row["template"] == "light up {area}" for row in lines["test"])


def test_a_command_with_two_meanings_is_left_out() -> None:
    document = home({"HassTurnOn": ["flip it"], "HassTurnOff": ["flip it", "halt {area}"]})
    document["intents"]["HassTurnOn"]["data"][0]["sentences"].append("start {area}")
    lines = intents.build(document, EACH, seed=0)
    said = [row["messages"][0]["content"].split()[0] for rows in lines.values() for row in rows]
    assert set(said) == {"start", "halt"}


def test_new_values_are_in_the_test_only() -> None:
    lines = intents.build(DOCUMENT, EACH, seed=0)
    seen = {value.text for value in intents.lists_of(DOCUMENT, "seen")["area"]}
    areas = {
        name: {json.loads(row["messages"][1]["content"])["slots"]["area"] for row in rows}
        for name, rows in lines.items()
    }
    assert areas["train"] <= seen
    new = [row for row in lines["test"] if row["new_values"]]
    assert new and all(json.loads(row["messages"][1]["content"])["slots"]["area"] not in seen for row in new)


def test_an_intent_is_right_in_any_spelling() -> None:
    row = {"messages": [{}, {"content": '{"intent":"A","slots":{"x":1,"y":"b"}}'}]}
    texts = ['{"slots": {"y": "b", "x": 1}, "intent": "A"}', '{"intent":"A","slots":{}}', '{"intent":', "[]"]
    verdicts = judge_intents([row] * 4, [Answer(text, True) for text in texts])
    assert [one["exact"] for one in verdicts] == [True, False, False, False]
    assert [one["intent"] for one in verdicts] == [True, True, False, False]
    assert [one["JSON"] for one in verdicts] == [True, True, False, False]


# --- Lint fixes

C400 = {
    "code": "C400",
    "suffix": ".py",
    "fixable": True,
    "bad": "items = list(f(x) for x in foo)",
    "messages": [{}, {"content": "items = [f(x) for x in foo]"}],
}


@pytest.mark.parametrize(
    ("answer", "passes", "same"),
    [
        ("items = [f(x) for x in foo]", True, True),
        ("items = [f(y) for y in foo]  # as a list", True, True),
        ("```python\nitems = [f(x) for x in foo]\n```", True, True),
        ("items = [x for x in foo]", True, False),
        ("", True, False),
        (C400["bad"], False, False),
        ("items = [f(x) for x in foo", False, False),
        ("import os\nitems = [f(x) for x in foo]", False, False),
    ],
)
def test_a_fix_passes_ruff_and_is_the_known_one(answer: str, passes: bool, same: bool) -> None:
    verdict = judge_fixes([C400], [Answer(answer, True)])[0]
    assert (verdict["ruff passes"], verdict["as the known fix"]) == (passes, same)
    assert verdict["fixed"] == (passes and same)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("def f(a):\n    return a", "def g(b):\n    # same\n    return b", True),
        ("def f(a, b):\n    return a", "def f(a, b):\n    return b", False),
        ("x = open(y)", "x = print(y)", False),
        ("x = y.read()", "x = y.write()", False),
        ("f(key=1)", "f(other=1)", False),
    ],
)
def test_the_same_code_may_differ_in_its_own_names(first: str, second: str, same: bool) -> None:
    assert lint_check.same_code(first, second) == same


def test_examples_are_the_blocks_around_use_instead() -> None:
    fence = "```"
    text = f"## Example\n{fence}python\nbad()\n{fence}\n\nUse instead:\n{fence}python\ngood()\n{fence}\nmore"
    rules = [{"code": "C1", "name": "one", "fix_availability": "None", "explanation": text}]
    rules.append({**rules[0], "explanation": "nothing"})
    found = lint_fixes.examples(rules)
    assert [(fix.bad, fix.good, fix.fixable) for fix in found] == [("bad()", "good()", False)]


def test_only_what_ruff_confirms_is_kept() -> None:
    good = lint_fixes.Fix("C400", "", C400["bad"], C400["messages"][1]["content"], True)
    swapped = lint_fixes.Fix("C400", "", good.good, good.bad, True)
    kept = lint_fixes.verified([good, swapped])
    assert [fix.bad for fix in kept] == [good.bad]
    assert kept[0].row["messages"][0]["content"].startswith("Fix C400 in line 1: Unnecessary generator")


def test_renaming_is_consistent_and_leaves_foreign_names() -> None:
    bad = "def load(path, mode):\n    handle = open(path, mode=mode)\n    return handle.path"
    fix = lint_fixes.Fix("X", "", bad, bad.replace("return", "yield"), True)
    renamed = lint_fixes.renamed(fix, Random(0))
    assert renamed is not None and renamed.good == renamed.bad.replace("return", "yield")
    assert renamed.bad != bad and lint_check.same_code(renamed.bad, bad)
    assert "mode=mode" in renamed.bad and ".path" in renamed.bad and "open(" in renamed.bad
    spoken = lint_fixes.Fix("X", "", "x = 1  # x is one", "x = 2", True)
    assert lint_fixes.renamed(spoken, Random(0)) is None


def test_rules_with_the_same_snippet_stay_together() -> None:
    fixes = [lint_fixes.Fix(f"C{i}", "", f"bad{i // 2}()", f"good{i}()", True) for i in range(40)]
    parts = lint_fixes.split(fixes, Random(0), test=8, valid=4)
    assert sum(map(len, parts.values())) == 40 and len(parts["test"]) == 8
    bad = [{fix.bad for fix in fixes} for fixes in parts.values()]
    assert not bad[0] & bad[1] and not bad[0] & bad[2] and not bad[1] & bad[2]


# --- Chat


def test_written_conversations_are_read_turn_by_turn() -> None:
    text = "S: Be brief.\nU: Hi\nA: Hello.\n    indented\n====\nU: One\nA: 1\nU: Two\nA: 2\n"
    found = chat.written(text)
    assert [[turn["role"] for turn in one] for one in found] == [
        ["system", "user", "assistant"],
        ["user", "assistant"] * 2,
    ]
    assert found[0][2]["content"] == "Hello.\n    indented"
    with pytest.raises(ValueError, match="not a conversation"):
        chat.written("U: nobody answers")


def test_no_scored_prompt_is_in_the_chat_data() -> None:
    rows = chat.held_out()
    asked = {chat.plain(row["messages"][-1]["content"]) for row in rows}
    assert len(rows) >= 60 and len(asked) == len(rows)
    data = chat.without(
        [*chat.written(chat.WRITTEN.read_text()), *chat.facts(), *chat.made(Random(0))], asked
    )
    said = {chat.plain(turn["content"]) for one in data for turn in one if turn["role"] == "user"}
    assert len(data) > 1500 and not asked & said
    for one in data:
        turns = [turn for turn in one if turn["role"] != "system"]
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert all(turn["content"].strip() for turn in one)


def test_the_sums_of_the_chat_data_are_right() -> None:
    checked = 0
    for one in chat.made(Random(0)):
        for turn in one:
            for a, sign, b, c in re.findall(
                r"(\d+) (plus|minus|times|divided by) (\d+) is (\d+)", turn["content"]
            ):
                operation = {"plus": "+", "minus": "-", "times": "*", "divided by": "//"}[sign]
                assert eval(f"{a}{operation}{b}") == int(c)
                checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("checks", "text", "holds"),
    [
        ({"any": ["lisbon"]}, "It is Lisbon.", True),
        ({"any": ["hi"]}, "Nothing of this", False),
        ({"any": ["positive"], "none": ["negative"]}, "Positive, not negative", False),
        ({"at_least": 2, "of": ["piano", "harp", "flute"]}, "Harp and piano", True),
        ({"at_least": 3, "of": ["piano", "harp", "flute"]}, "Harp and piano", False),
        ({"regex": "\\b13\\b"}, "113", False),
    ],
)
def test_a_prompt_is_checked(checks: dict[str, Any], text: str, holds: bool) -> None:
    assert says(checks, text) == holds


def test_an_answer_must_end_and_be_short_enough() -> None:
    row = {"any": ["yes"], "max_words": 3}
    answers = [Answer("Yes.", True), Answer("Yes.", False), Answer("Yes, it is so.", True)]
    assert [one["right"] for one in judge_chats([row] * 3, answers)] == [True, False, False]
    assert all(one["content"] for one in judge_chats([row] * 3, answers))


def test_every_scored_prompt_has_a_check_that_can_fail() -> None:
    assert not [row["user"] for row in chat.held_out() if says(row, "")]


# --- Files


def test_the_tuning_reads_nothing_but_messages(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "é"}], "template": "x"}
    write_data(tmp_path / "data", {"train": [row], "valid": [row], "test": [row] * 130})
    assert read_lines(tmp_path / "data" / "train.jsonl") == [{"messages": row["messages"]}]
    assert len(read_lines(tmp_path / "data" / "test.jsonl")) == 100
    assert read_lines(tmp_path / "data-test.jsonl") == [row] * 130


def test_the_nearest_examples_come_last() -> None:
    known = [[{"content": text}, {"content": "a"}] for text in ("stop the fan", "turn on the light", "hello")]
    assert [one[0]["content"] for one in nearest("turn on the fan", known, 2)] == [
        "stop the fan",
        "turn on the light",
    ]


# --- Scores


def test_shares_are_measured_by_group() -> None:
    task = score.TASKS["intents"]
    rows = [{"new_shape": new, "new_values": False} for new in (True, True, False)]
    verdicts = [{"exact": True}, {"exact": False}, {"exact": True}]
    lines = {line["group"]: line for line in score.measure(task, rows, verdicts)}
    assert {group: (line["share"], line["n"]) for group, line in lines.items()} == {
        "all": (2 / 3, 3),
        "new shape": (0.5, 2),
        "near-copy": (1.0, 1),
        "seen values": (2 / 3, 3),
    }
    assert all(line["low"] < line["share"] <= line["high"] for line in lines.values())


def test_examples_are_the_same_or_the_nearest() -> None:
    task = score.TASKS["intents"]
    known = [[{"content": f"word{i} x"}, {"content": "a"}] for i in range(30)]
    questions = [[{"content": "word7"}], [{"content": "word9"}]]
    same = score.choose_shots(task, known, questions, 3, False, 0)
    assert same[0] == same[1] and len(same[0]) == 3
    assert same == score.choose_shots(task, known, questions, 3, False, 0)
    near = score.choose_shots(task, known, questions, 3, True, 0)
    assert [shots[-1][0]["content"] for shots in near] == ["word7 x", "word9 x"]
    assert score.choose_shots(task, known, questions, 0, False, 0) == [[], []]


def test_a_prompt_of_examples_ends_where_the_answer_begins() -> None:
    frame = score.TASKS["intents"].frame
    prompt = frame.prompt([[{"content": "stop"}, {"content": "{}"}]], "go")
    assert prompt.endswith("Command: stop\nJSON: {}\n\nCommand: go\nJSON:")


def test_the_table_shows_the_newest_result(tmp_path: Path) -> None:
    def result(name: str, date: str, share: float) -> None:
        ends = {"share": share, "low": 0.0, "high": 1.0, "n": 4}
        rows = [{"group": "all", "measure": what, **ends} for what in table.MEASURES["chat"]]
        document = {"date": date, "settings": {"candidate": name}, "rows": rows}
        (tmp_path / f"tune-chat-{name}-{date}.json").write_text(json.dumps(document))

    result("tuned", "2026-01-02", 0.5)
    result("tuned", "2026-01-01", 0.25)
    result("base-frame", "2026-01-01", 0.75)
    lines = table.table("chat", tmp_path).splitlines()
    assert lines[2].startswith("| base-frame | 75% (0% to 100%) |")
    assert lines[3].startswith("| tuned | 50% ") and "2026-01-02" in lines[-1]
