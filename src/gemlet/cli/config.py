"""`gemlet config`: every setting with its value and where it comes from, and changes to the file."""

from __future__ import annotations

import argparse
import os
import tempfile
from difflib import get_close_matches
from pathlib import Path

from gemlet.cli.terminal import print_json
from gemlet.errors import ConfigError
from gemlet.store.settings import KEYS, Setting, config_file, read_settings
from gemlet.types import as_dict

DESCRIPTION = (
    "Show every setting and where its value comes from, or change the configuration file.\n"
    "Order: command-line flag, environment variable (GEMLET_ and the name in capitals), file, default."
)
EXAMPLES = (
    "gemlet config",
    "gemlet config set model ~/models/gemma-3-1b-it-q4_0.gguf",
    "gemlet config set history false",
    "gemlet config unset history",
    "gemlet config path",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet config`."""
    known = "; ".join(f"{name}: {key.meaning}" for name, key in KEYS.items())
    parser.add_argument(
        "action", nargs="?", choices=("set", "unset", "path"), help="what to do (default: show all)"
    )
    parser.add_argument("key", nargs="?", metavar="KEY", help=known)
    parser.add_argument("value", nargs="?", metavar="VALUE", help="the new value, with set")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    _check_words(parsed)
    if parsed.action == "set":
        set_value(parsed.key, parsed.value)
    elif parsed.action == "unset":
        unset_value(parsed.key)
    if parsed.action == "path":
        path = str(config_file())
        if parsed.json:
            print_json({"path": path})
        else:
            print(path)
        return 0
    settings = read_settings()
    shown = [settings[parsed.key]] if parsed.key else list(settings.values())
    if parsed.json:
        print_json({"path": str(config_file()), "settings": as_dict(shown)})
    else:
        print("\n".join(_lines(shown)))
    return 0


def _check_words(parsed: argparse.Namespace) -> None:
    needed = {"set": ("key", "value"), "unset": ("key",)}.get(parsed.action, ())
    for name in ("key", "value"):
        given = getattr(parsed, name)
        if name in needed and given is None:
            raise ConfigError(
                f"gemlet config {parsed.action} needs a {name}", hint=f"known keys: {', '.join(KEYS)}"
            )
        if name not in needed and given is not None:
            raise ConfigError(f"gemlet config {parsed.action} takes no {name}: '{given}'")
    if parsed.key is not None and parsed.key not in KEYS:
        near = get_close_matches(parsed.key, KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(KEYS)}"
        raise ConfigError(f"unknown setting '{parsed.key}'", hint=hint)


def _lines(settings: list[Setting]) -> list[str]:
    rows = [(setting.key, _shown(setting.value), _origin(setting)) for setting in settings]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{key:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for key, value, origin in rows]


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _origin(setting: Setting) -> str:
    return setting.origin if setting.where is None else f"{setting.origin}: {setting.where}"


def set_value(key: str, text: str) -> None:
    """Write one setting to the file, in its place if it is there already; other lines stay as they are."""
    try:
        value = KEYS[key].parse(text)
    except ValueError as error:
        raise ConfigError(f"{key} {error}, not '{text}'") from None
    if not text.isprintable():
        raise ConfigError(f"{key}: the value holds characters that cannot be printed")
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    bare = isinstance(value, bool) or text.isdigit()
    _rewrite(key, f"{key} = {_shown(value) if bare else quoted}\n")


def unset_value(key: str) -> None:
    """Remove one setting from the file, if it is there."""
    _rewrite(key, None)


def _rewrite(key: str, line: str | None) -> None:
    path = config_file().resolve()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    number = _line_number(key)
    if number is not None:
        lines[number - 1 : number] = [] if line is None else [line]
    elif line is not None:
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines.append(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, "".join(lines))


def _line_number(key: str) -> int | None:
    # Environment variables would hide what the file says.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GEMLET_")}
    setting = read_settings(environ=plain)[key]
    return int(str(setting.where).rpartition(":")[2]) if setting.origin == "file" else None


def _replace(path: Path, text: str) -> None:
    """Replace the file at once, so that another process never reads half of it."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as new:
        new.write(text)
    os.replace(new.name, path)
