"""Whether a chat template gives the model what it was trained on: by its text, else by rendering it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from gemlet.provenance.check.findings import Finding
from gemlet.provenance.check.published import TEMPLATE_SHA256
from gemlet.provenance.check.traps import trap
from gemlet.text.template import TURN_END, TURN_START

BOS = "<bos>"
PATIENCE = 30
"""Seconds that a template may take in all."""

_PLAIN = [{"role": "user", "content": "  Hello there \n"}]
_LONG = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]


def is_stock(template: str) -> bool:
    """Whether it is the publisher's text."""
    return hashlib.sha256(f"{template.rstrip()}\n".encode("utf-8", "replace")).hexdigest() == TEMPLATE_SHA256


def check_template(where: object, template: str) -> list[Finding]:
    """Findings about a template."""
    if is_stock(template):
        return []
    if importlib.util.find_spec("jinja2") is None:
        return [
            trap("template-unrendered", where, "the text is not the publisher's, and jinja2 is not installed")
        ]
    try:
        (plain, problem), (long, _) = _render(template, [_PLAIN, _LONG])
    except (subprocess.SubprocessError, ValueError):
        return [trap("template-broken", where, f"rendering it fails or takes longer than {PATIENCE} s")]
    if plain is None:
        return [trap("template-broken", where, f"it cannot be rendered: {problem}")]
    return _compare(where, plain, long)


def _turn(role: str, text: str) -> str:
    return f"{TURN_START}{role}\n{text}{TURN_END}\n"


def _compare(where: object, plain: str, long: str | None) -> list[Finding]:
    prompt, tail = f"{TURN_START}model\n", _turn("model", "Hello") + _turn("user", "Bye")
    wanted = f"{BOS}{_turn('user', 'Hello there')}{prompt}"
    count = plain.count(BOS)
    if count != 1:
        return [trap("template-bos", where, f"a rendered conversation has {count} {BOS}")]
    if plain != wanted:
        if "".join(plain.split()) == "".join(wanted.split()):
            return [trap("template-untrimmed", where, "it keeps or adds white space around messages")]
        return [trap("template-differs", where, f"a question is rendered as {plain[:200]!r}")]
    if long == f"{BOS}{_turn('user', 'Be brief.')}{_turn('user', 'Hi')}{tail}{prompt}":
        return [trap("template-system-turn", where, "it gives the system message a user turn of its own")]
    if long == f"{BOS}{_turn('system', 'Be brief.')}{_turn('user', 'Hi')}{tail}{prompt}":
        return [trap("template-system-turn", where, "it gives the system message a turn named system")]
    first = _turn("user", "Be brief.\n\nHi")
    if long != f"{BOS}{first}{tail}{prompt}":
        return [
            trap("template-differs", where, "a conversation with a system message is rendered differently")
        ]
    return [trap("template-text", where, "its text is not the publisher's")]


def _render(template: str, cases: list[list[dict[str, str]]]) -> list[tuple[str | None, str | None]]:
    script = Path(__file__).with_name("render_template.py")
    request = json.dumps({"template": template, "bos": BOS, "cases": cases})
    done = subprocess.run(
        [sys.executable, str(script)],
        input=request,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return [(text, problem) for text, problem in json.loads(done.stdout)]
