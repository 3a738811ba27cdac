"""What the person set, and where: flag, environment variable, configuration file, default, in that order."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gemlet.errors import ConfigError

Origin = Literal["flag", "environment", "file", "default"]
Value = str | int | bool | None


@dataclass(frozen=True)
class Setting:
    """One value and where it comes from. `where` is the variable's name or the file's path and line."""

    key: str
    value: Value
    origin: Origin
    where: str | None = None


@dataclass(frozen=True)
class _Key:
    """How one setting is read: `parse` turns text or a TOML value into the value, or raises ValueError."""

    parse: Callable[[str | int | bool], Value]
    default: Value
    meaning: str


def _text(value: str | int | bool) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be text that is not empty")
    return value


def _count(value: str | int | bool) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", str(value)) or int(value) < 1:
        raise ValueError("must be a whole number from 1")
    return int(value)


def _switch(value: str | int | bool) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError("must be true or false")
    return words[str(value).lower()]


_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _bytes(value: str | int | bool) -> int:
    match = None if isinstance(value, bool) else re.fullmatch(r"(\d{1,15})\s*([A-Za-z]*)", str(value))
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError("must be a number of bytes, such as 5GB or 512MiB")
    return int(match[1]) * _UNITS[match[2].upper()]


def _weights(value: str | int | bool) -> str:
    if value not in WEIGHTS:
        raise ValueError(f"must be one of {', '.join(WEIGHTS)}")
    return str(value)


WEIGHTS = ("auto", "stored", "bf16", "int8", "int4")
"""The compute types that weights can be loaded as."""

KEYS: dict[str, _Key] = {
    "model": _Key(_text, None, "model reference that verbs use without -m"),
    "weights": _Key(_weights, "auto", "type the weights are computed in"),
    "context": _Key(_count, None, "positions a request may take (default: the model's limit)"),
    "threads": _Key(_count, None, "compute threads (default: chosen from the machine)"),
    "prefix_cache": _Key(_bytes, 2 * 2**30, "bytes of read prompts kept on disk for later runs; 0: none"),
    "cache_limit": _Key(_bytes, 20 * 10**9, "bytes the cache folder may hold"),
    "offline": _Key(_switch, False, "never use the network"),
    "head_sketch": _Key(
        _switch, True, "keep a sketch of a large head, which makes greedy answers faster and costs memory"
    ),
    "drafts": _Key(_switch, True, "check several guessed tokens a step where that is faster"),
    "history": _Key(_switch, True, "keep conversations of `gemlet chat`"),
}
"""Every setting: its name in the file; GEMLET_ and the name in capitals is its environment variable."""


def config_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Folder of the configuration file."""
    return _xdg(environ, "XDG_CONFIG_HOME", ".config")


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Folder of everything that can be made again: packed weights, prefixes."""
    return _xdg(environ, "XDG_CACHE_HOME", ".cache")


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Folder of what belongs to the person: conversations."""
    return _xdg(environ, "XDG_DATA_HOME", ".local/share")


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The configuration file, whether it exists or not."""
    return config_dir(environ) / "config.toml"


def read_settings(
    flags: Mapping[str, Value] | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, Setting]:
    """Every setting with its value and origin. `flags`: what the command line gave; None is not given.

    Raises ConfigError for an unknown key or a wrong value, naming the variable, or the file and its line.
    """
    flags = flags or {}
    if unknown := sorted(set(flags) - set(KEYS)):
        raise ConfigError(f"unknown setting {unknown[0]!r}; known: {', '.join(KEYS)}")
    in_file = _read_file(config_file(environ))
    return {key: _resolve(key, flags, environ, in_file) for key in KEYS}


def _resolve(
    key: str, flags: Mapping[str, Value], environ: Mapping[str, str], in_file: Mapping[str, Setting]
) -> Setting:
    given = flags.get(key)
    if given is not None:
        return Setting(key, _parse(key, given, f"--{key.replace('_', '-')}"), "flag")
    variable = f"GEMLET_{key.upper()}"
    if environ.get(variable):
        return Setting(key, _parse(key, environ[variable], variable), "environment", variable)
    return in_file.get(key) or Setting(key, KEYS[key].default, "default")


def _parse(key: str, value: str | int | bool, where: str) -> Value:
    try:
        return KEYS[key].parse(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {key} {error}, not {value!r}") from None


def _read_file(path: Path) -> dict[str, Setting]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    settings: dict[str, Setting] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path}:{number}"
        pair = parse_line(line, where)
        if pair is None:
            continue
        key, value = pair
        if key not in KEYS:
            raise ConfigError(f"{where}: unknown setting {key!r}", hint=f"known: {', '.join(KEYS)}")
        if key in settings:
            raise ConfigError(f"{where}: {key} is set twice, first at {settings[key].where}")
        if isinstance(value, float):
            raise ConfigError(f"{where}: {key} must not be a fraction, as {value!r} is")
        settings[key] = Setting(key, _parse(key, value, where), "file", where)
    return settings


# The part of TOML that a flat file needs, so that Python 3.10 reads the same files as later versions.
_LINE = re.compile(
    r"""\s*(?P<key>[A-Za-z0-9_-]+)\s*=\s*
    (?: "(?P<basic>(?:[^"\\]|\\.)*)" | '(?P<literal>[^']*)' | (?P<bare>[A-Za-z0-9_+.-]+) )
    \s*(?:\#.*)?""",
    re.VERBOSE,
)
_ESCAPES = {"\\": "\\", '"': '"', "n": "\n", "t": "\t"}


def parse_line(line: str, where: str) -> tuple[str, str | int | float | bool] | None:
    """Key and value of a line; None for an empty line or a comment. ConfigError for anything else."""
    if not line.strip() or line.lstrip().startswith("#"):
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        hint = 'a line is: name = "text", name = 123, or name = true'
        raise ConfigError(f"{where}: cannot be read: {line.strip()!r}", hint=hint)
    if match["literal"] is not None:
        return match["key"], match["literal"]
    if match["basic"] is not None:
        return match["key"], _unescape(match["basic"], where)
    bare = match["bare"]
    if bare in ("true", "false"):
        return match["key"], bare == "true"
    if re.fullmatch(r"[+-]?(0|[1-9][0-9_]*)", bare):
        return match["key"], int(bare)
    if re.fullmatch(r"[+-]?(0|[1-9][0-9]{0,15})\.[0-9]{1,16}", bare):
        return match["key"], float(bare)
    raise ConfigError(f"{where}: {bare!r} is not a TOML value", hint='put text in quotes: name = "text"')


def _unescape(text: str, where: str) -> str:
    def replace(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            hint = "write text with backslashes in single quotes"
            raise ConfigError(f"{where}: unknown escape \\{match[1]}", hint=hint)
        return _ESCAPES[match[1]]

    return re.sub(r"\\(.)", replace, text)


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    # The XDG rules: a relative path in the variable counts as not set.
    base = Path(environ.get(variable, ""))
    if not base.is_absolute():
        try:
            base = Path.home() / fallback
        except RuntimeError:  # a container's user without an entry
            raise ConfigError(f"there is no home folder: set HOME, or {variable}") from None
    return base / "gemlet"
