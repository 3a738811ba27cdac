"""Python that ruff complains of, and its fix, from the examples in ruff's own documentation of its rules.

    python -m benchmarks.tune.lint_fixes -o .cache/tune/lint

A pair is kept where ruff itself finds the rule in the first snippet and not in the second. Rules are split:
those of the test were never seen. Training pairs come again with their own names changed, checked as well.
Writes train, valid and test.jsonl for `gemlet tune`, and lint-test.jsonl beside the folder. Ruff is MIT.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import keyword
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.tune.data_files import write_data
from benchmarks.tune.lint_check import Finding, bound_names, findings, keywords_of, parses, passes

PACKAGE = "ruff==0.17.6"
LONGEST = 1000
"""Characters of both snippets together: longer ones are left out."""

_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LOWER = (
    "account amount answer batch book bucket buffer city client color column count cursor customer data "
    "day delta device document draft email entry error_count event field file_name first flag fruit "
    "group handler height image index_map info invoice item job key label last_name level limit "
    "line_count location log_entry member message metric month note number offset option order owner "
    "page parcel payload person phrase picture player point price product profile query rate reading "
    "record region report request_id result_list row sample schedule score sensor session signal size "
    "source speed stage start station step street student table target task temperature text_value "
    "ticket title token_count total track user vehicle video weight width window_size word worker year"
)
_CAPITALS = (
    "Account Animal Basket Book Budget Camera City Client Container Country Course Document Driver "
    "Engine Event Garden Invoice Journey Library Machine Member Message Movie Order Parser Payment "
    "Person Player Product Project Recipe Record Report Robot Sensor Server Session Shape Station "
    "Storage Student Ticket Vehicle Visitor Widget Worker"
)


@dataclass(frozen=True)
class Fix:
    """A rule's example. `finding`: what ruff says of the bad side. `fixable`: whether ruff can fix it."""

    code: str
    name: str
    bad: str
    good: str
    fixable: bool
    suffix: str = ".py"
    finding: Finding | None = None

    @property
    def row(self) -> dict[str, Any]:
        assert self.finding is not None
        said = f"{self.code} in line {self.finding.line}: {self.finding.message}"
        turns = [{"role": "user", "content": f"Fix {said}\n\n{self.bad}"}]
        turns.append({"role": "assistant", "content": self.good})
        known = {"code": self.code, "bad": self.bad, "fixable": self.fixable, "suffix": self.suffix}
        return {"messages": turns, **known}


def read_rules() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "ruff", "rule", "--all", "--output-format", "json"]
    rules: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return rules


def examples(rules: Sequence[dict[str, Any]]) -> list[Fix]:
    """The block before "Use instead" and the one after it, where both are Python."""
    found = []
    for rule in rules:
        before, _, after = (rule["explanation"] or "").partition("Use instead")
        bad, good = _BLOCK.findall(before), _BLOCK.findall(after)
        if bad and good and {bad[-1][0], good[0][0]} <= {"python", "py", "pyi"}:
            fixable = rule["fix_availability"] != "None"
            found.append(Fix(rule["code"], rule["name"], bad[-1][1].rstrip(), good[0][1].rstrip(), fixable))
    return found


def verified(fixes: Sequence[Fix]) -> list[Fix]:
    """Those whose bad side ruff flags with the rule and whose good side passes, as .py or as .pyi.

    Snippets that are no Python 3.10, or comments only, are left out.
    """
    kept, rest = [], list(fixes)
    for suffix in (".py", ".pyi"):
        bad = findings([one.bad for one in rest], suffix=suffix)
        good = findings([one.good for one in rest], suffix=suffix)
        failed = []
        for fix, before, after in zip(rest, bad, good, strict=True):
            own = [one for one in before if one.code == fix.code]
            if own and passes(fix.code, before, after) and _is_code(fix.bad) and _is_code(fix.good):
                kept.append(replace(fix, suffix=suffix, finding=own[0]))
            else:
                failed.append(fix)
        rest = failed
    return kept


def _is_code(snippet: str) -> bool:
    return parses(snippet) and bool(ast.parse(snippet).body)


def split(fixes: Sequence[Fix], random: Random, test: int, valid: int) -> dict[str, list[Fix]]:
    """Whole rules, those with the same snippet together. The counts are of pairs, met or just exceeded."""
    groups: list[list[Fix]] = []
    place: dict[str, list[Fix]] = {}
    for fix in fixes:
        group = place.get(fix.bad) or place.get(fix.good) or []
        if not group:
            groups.append(group)
        group.append(fix)
        place[fix.bad] = place[fix.good] = group
    random.shuffle(groups)
    parts: dict[str, list[Fix]] = {"test": [], "valid": [], "train": []}
    for group in groups:
        open_parts = [name for name, most in (("test", test), ("valid", valid)) if len(parts[name]) < most]
        parts[open_parts[0] if open_parts else "train"] += group
    return parts


def renamed(fix: Fix, random: Random) -> Fix | None:
    """The pair with its own names changed alike on both sides; None where it has none that can be."""
    if not parses(fix.bad) or not parses(fix.good):
        return None
    trees = [ast.parse(fix.bad), ast.parse(fix.good)]
    fixed = set().union(*map(keywords_of, trees))
    own = {name for name in bound_names(trees[0]) & bound_names(trees[1]) if name not in fixed}
    loose = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    own |= {name for name in loose if name in ("foo", "bar", "baz", "x", "y", "z", "a", "b", "c", "i", "n")}
    own = {name for name in own - fixed - {"self", "cls"} if name[0] != "_" and not name.isupper()}
    if not own:
        return None
    lower, capitals = _LOWER.split(), _CAPITALS.split()
    random.shuffle(lower)
    random.shuffle(capitals)
    names = {name: (capitals if name[0].isupper() else lower).pop() for name in sorted(own)}
    bad, good = _rename(fix.bad, names), _rename(fix.good, names)
    return replace(fix, bad=bad, good=good, finding=None) if bad and good else None


def _rename(snippet: str, names: dict[str, str]) -> str | None:
    """Names as tokens of their own: not inside strings and comments, where a mention stops the renaming."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(snippet + "\n").readline))
    except (tokenize.TokenError, SyntaxError):
        return None
    lines = snippet.split("\n")
    for token in reversed(tokens):
        if token.type == tokenize.NAME and token.string in names and not keyword.iskeyword(token.string):
            row, (start, end) = token.start[0] - 1, (token.start[1], token.end[1])
            lines[row] = lines[row][:start] + names[token.string] + lines[row][end:]
        elif token.type in (tokenize.STRING, tokenize.COMMENT) and set(
            re.findall(r"\w+", token.string)
        ) & set(names):
            return None
    return "\n".join(lines)


def augmented(fixes: Sequence[Fix], times: int, random: Random) -> list[Fix]:
    """The pairs and up to `times` renamed copies of each that ruff verifies as well."""
    copies = [copy for fix in fixes for _ in range(times) if (copy := renamed(fix, random)) is not None]
    unique = {(copy.code, copy.bad): copy for copy in copies}
    return [*fixes, *verified(list(unique.values()))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path(".cache/tune/lint"), help="the folder to write"
    )
    parser.add_argument("--copies", type=int, default=4, help="renamed copies of a training pair")
    parser.add_argument("--test", type=int, default=150, help="pairs of rules that are never trained on")
    parser.add_argument("--valid", type=int, default=40, help="pairs of other rules for the validation loss")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = examples(read_rules())
    kept = [fix for fix in verified(found) if len(fix.bad) + len(fix.good) <= LONGEST]
    random = Random(args.seed)
    parts = split(kept, random, args.test, args.valid)
    parts["train"] = augmented(parts["train"], args.copies, random)
    for fixes in parts.values():
        random.shuffle(fixes)
    write_data(args.out, {name: [fix.row for fix in fixes] for name, fixes in parts.items()})
    print(f"{len(found)} pairs in ruff's documentation, {len(kept)} verified by ruff and short enough")
    for name, fixes in parts.items():
        linters: dict[str, int] = defaultdict(int)
        for fix in fixes:
            linters[re.match("[A-Z]+", fix.code).group()] += 1  # type: ignore[union-attr]
        print(
            f"{name}: {len(fixes)} pairs of {len({fix.code for fix in fixes})} rules, {len(linters)} linters"
        )


if __name__ == "__main__":
    main()
