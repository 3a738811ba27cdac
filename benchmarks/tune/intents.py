"""Voice commands and what they mean, from the English sentence templates of home-assistant-intents.

    python -m benchmarks.tune.intents -o .cache/tune/intents

Writes train, valid and test.jsonl for `gemlet tune`: `messages` of a command and its answer, compact JSON.
The splits share no template, and no training template can give a command of the test. Beside the folder,
intents-test.jsonl is what `benchmarks.tune.score` asks; its lines also say whether their template has a new
shape (which differs from every training template's by more than its lists and units) and whether their values
are new. Names of rooms and devices are ours; the templates are Apache-2.0.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.tune.data_files import write_data
from benchmarks.tune.sentences import Grammar, Part, Value, parse

PACKAGE = "home-assistant-intents==2026.10.27"
TEMPLATES = 862
"""What that version holds in English; another number means another version."""

HOME = Path(__file__).with_name("home.json")
"""Rooms, devices, lists and titles of a made-up home. The last third of each list is kept for the test half
whose commands speak of nothing seen in training."""

_AGREES_NOT = re.compile(
    r"\b(1 (hour|minute|second)s|([02-9]|\d\d+) (hour|minute|second)|1/2 .*s|half .*s)\b"
)
"""Number and noun, as people do not say them."""


@dataclass(frozen=True)
class Template:
    """A sentence template, its intent, slots that all its sentences have, and the domains of its device."""

    text: str
    intent: str
    slots: tuple[tuple[str, Any], ...]
    domains: tuple[str, ...]

    @property
    def shape(self) -> str:
        """The template without what its lists and units are: those with equal shapes are near-copies."""
        return re.sub(r"\b(hour|minute|second)", "unit", re.sub(r"\{[^}]+\}", "{}", self.text))


def read_templates(document: Mapping[str, Any]) -> list[Template]:
    found = []
    for intent, entry in document["intents"].items():
        for block in entry["data"]:
            domains = (block.get("requires_context") or {}).get("domain", ())
            slots = tuple(sorted((block.get("slots") or {}).items()))
            found += [Template(text, intent, slots, tuple(domains)) for text in block["sentences"]]
    return found


def split(
    templates: Sequence[Template], random: Random, test: float = 0.15, valid: float = 0.05
) -> dict[str, list[Template]]:
    """Templates by split, a share of each intent's; an intent with fewer than four is learned only.

    Templates with the same text go together.
    """
    texts: dict[str, dict[str, None]] = defaultdict(dict)
    for template in templates:
        texts[template.intent].setdefault(template.text)
    taken: dict[str, str] = {}
    for intent, known in texts.items():
        free = [text for text in known if text not in taken]
        random.shuffle(free)
        counts = [max(1, round(len(free) * test)), round(len(free) * valid)] if len(free) >= 4 else [0, 0]
        names = ["test"] * counts[0] + ["valid"] * counts[1]
        taken.update(zip(free, names + ["train"] * (len(free) - len(names)), strict=True))
        assert all(text in taken for text in known), intent
    parts: dict[str, list[Template]] = {"train": [], "valid": [], "test": []}
    for template in templates:
        parts[taken[template.text]].append(template)
    return parts


def lists_of(document: Mapping[str, Any], which: str) -> dict[str, list[Value]]:
    """The lists, with our values for what a home names: `which` is "seen", "new" or "all" of them."""
    lists: dict[str, list[Value]] = {}
    for name, entry in document["lists"].items():
        if "values" in entry:
            lists[name] = [Value(value["in"], value["out"]) for value in entry["values"]]
        elif "range" in entry:
            span = entry["range"]
            numbers = range(span["from"], span["to"] + 1, span.get("step", 1))
            sign = span.get("multiplier", 1)
            lists[name] = [Value(str(number), number * sign) for number in numbers]
    for name, values in json.loads(HOME.read_text()).items():
        seen = len(values) - len(values) // 3
        chosen = {"seen": values[:seen], "new": values[seen:], "all": values}[which]
        lists[name] = [Value(value, value) for value in chosen]
    return lists


def grammar_for(template: Template, rules: Mapping[str, Part], lists: Mapping[str, list[Value]]) -> Grammar:
    """The grammar with the device names that fit the template's domains."""
    domains = [f"name:{name}" for name in template.domains if f"name:{name}" in lists] or ["name:other"]
    return Grammar(rules, {**lists, "name": [value for name in domains for value in lists[name]]})


def answer(template: Template, slots: Mapping[str, Any]) -> str:
    """The answer's one spelling: compact, slots in alphabetical order."""
    meaning = dict(sorted({**dict(template.slots), **slots}.items()))
    return json.dumps({"intent": template.intent, "slots": meaning}, separators=(",", ":"))


def draw(
    templates: Iterable[Template],
    rules: Mapping[str, Part],
    lists: Mapping[str, list[Value]],
    each: int,
    random: Random,
) -> Iterator[tuple[Template, str, str]]:
    """Up to `each` different commands of every template, with their answers."""
    for template in templates:
        part, grammar = parse(template.text), grammar_for(template, rules, lists)
        commands = set()
        for _ in range(each * 4):
            command, slots = grammar.draw(part, random)
            if command not in commands and not _AGREES_NOT.search(command):
                commands.add(command)
                yield template, command, answer(template, slots)
            if len(commands) == each:
                break


def build(document: Mapping[str, Any], each: Mapping[str, int], seed: int) -> dict[str, list[dict[str, Any]]]:
    """The splits' lines, without commands drawn with two meanings or that training could give."""
    random = Random(seed)
    rules = {name: parse(text) for name, text in document["expansion_rules"].items()}
    parts = split(read_templates(document), random)
    lists = {which: lists_of(document, which) for which in ("seen", "new", "all")}
    shapes = {template.shape for template in parts["train"]}
    lines: dict[str, list[dict[str, Any]]] = {}
    meanings: dict[str, set[str]] = defaultdict(set)
    for name, templates in parts.items():
        drawn = [(row, False) for row in draw(templates, rules, lists["seen"], each[name], random)]
        if name == "test":
            drawn += [(row, True) for row in draw(templates, rules, lists["new"], each[name], random)]
        lines[name] = []
        for (template, command, meaning), new in drawn:
            meanings[command].add(meaning)
            row = {"messages": _messages(command, meaning), "template": template.text}
            lines[name].append(row | {"new_shape": template.shape not in shapes, "new_values": new})
    known = set(_commands(lines["train"]))
    reach = [grammar_for(one, rules, lists["all"]).pattern(parse(one.text)) for one in parts["train"]]
    for name, rows in lines.items():
        clear = [row for row in rows if len(meanings[_command(row)]) == 1]
        if name != "train":
            clear = [row for row in clear if _command(row) not in known and not _reached(reach, row)]
        unique = {_command(row): row for row in clear}
        lines[name] = list(unique.values())
        random.shuffle(lines[name])
    return lines


def _messages(command: str, meaning: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": command}, {"role": "assistant", "content": meaning}]


def _command(row: Mapping[str, Any]) -> str:
    command: str = row["messages"][0]["content"]
    return command


def _commands(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    return (_command(row) for row in rows)


def _reached(patterns: Sequence[re.Pattern[str]], row: Mapping[str, Any]) -> bool:
    text = "".join(_command(row).split())
    return any(pattern.fullmatch(text) for pattern in patterns)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path(".cache/tune/intents"), help="the folder to write"
    )
    parser.add_argument("--each", type=int, default=9, help="training commands drawn from each template")
    parser.add_argument("--test", type=int, default=600, help="test commands that are kept")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    document = json.loads((files("home_assistant_intents") / "data" / "en.json").read_text())
    found = len(read_templates(document))
    if found != TEMPLATES:
        parser.error(f"{found} templates instead of {TEMPLATES}: install {PACKAGE}")
    lines = build(document, {"train": args.each, "valid": 4, "test": 4}, args.seed)
    # The same number of every template, as far as it goes, so that the test does not follow the largest.
    lines["test"] = lines["test"][: args.test]
    write_data(args.out, lines)
    for name, rows in lines.items():
        templates = len({row["template"] for row in rows})
        marks = Counter("new shape" if row["new_shape"] else "near-copy" for row in rows)
        values = Counter("new values" if row["new_values"] else "seen values" for row in rows)
        print(f"{name}: {len(rows)} commands of {templates} templates; {dict(marks)}; {dict(values)}")


if __name__ == "__main__":
    main()
