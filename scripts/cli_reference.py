"""Writes docs/reference/cli.md from the parsers of the verbs.

Usage: cli_reference.py [--check]     --check writes nothing and fails where the file differs
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from generated import write_or_check

from gemlet.cli.main import VERBS, verb_parser

TARGET = Path(__file__).resolve().parent.parent / "docs/reference/cli.md"
HEAD = """# Command line

Written by `scripts/cli_reference.py` from the help texts; `gemlet help VERB` prints the same.

Exit codes: 0 done, 1 other errors, 2 wrong request, 3 model file, 4 model not found, 5 licence,
6 missing extra, 7 configuration, 8 saved state, 9 model closed, 10 queue full, 11 answers cut off when
`serve` was ended, 130 stopped with Ctrl-C, 141 the reader of the output went away. With `--json` an error is
`{"error": {"type", "message", "hint", "exit_code"}}` on standard output. `GEMLET_DEBUG=1` adds tracebacks.
"""


def main() -> int:
    return write_or_check(__doc__, TARGET, reference(), "scripts/cli_reference.py")


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for verb in VERBS for line in verb_section(verb))])


def verb_section(verb: str) -> Iterator[str]:
    """One verb: what it does, its examples, and a table of flags for each group."""
    yield from section(verb_parser(verb))


def section(parser: argparse.ArgumentParser) -> Iterator[str]:
    """One parser and those of its own verbs."""
    examples = str(parser.epilog).split("\n")[1:]
    yield from [f"## {parser.prog}", "", str(parser.description), ""]
    yield from ["```sh", *(line.strip() for line in examples), "```", ""]
    for group in parser._action_groups:
        inner = [action for action in group._group_actions if isinstance(action, argparse._SubParsersAction)]
        actions = [a for a in group._group_actions if a.dest != "help" and a not in inner]
        if actions:
            title = {"positional arguments": "arguments", "options": "other"}.get(
                str(group.title), group.title
            )
            yield from [f"| {title} | |", "| --- | --- |", *map(row, actions), ""]
        for parser_of_verb in (p for action in inner for p in action.choices.values()):
            yield from section(parser_of_verb)


def row(action: argparse.Action) -> str:
    """One flag or argument as a row."""
    value = str(action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest))
    if not action.option_strings:
        shown = value
    elif action.nargs == 0:
        shown = ", ".join(action.option_strings)
    else:
        many = {"+": f"{value}…", "?": f"[{value}]"}.get(str(action.nargs), value)
        shown = f"{', '.join(action.option_strings)} {many}"
    return f"| `{shown.replace('|', chr(92) + '|')}` | {action.help} |"


if __name__ == "__main__":
    sys.exit(main())
