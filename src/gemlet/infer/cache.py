"""A key-value state on disk: written in one move, checked when read, bound to all that changes its bits.

A file is a header line of JSON, the token ids, and the state's bytes. The header names the facts the state
depends on (weights, types, instruction set, engine version) and a hash of what follows, so a file that is
torn, altered, or of another model or engine is a StateError and never a wrong answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gemlet.errors import StateError
from gemlet.formats.files import replaced_file
from gemlet.ops.batch import State
from gemlet.types import Manifest

FORMAT = "gemlet-state-1"
_FACTS = (
    "weights_sha256",
    "adapter_sha256",
    "weights_type",
    "activation_type",
    "kv_type",
    "embedding_scale",
    "instruction_set",
    "engine_version",
)
_LONGEST_HEADER = 1 << 16


class Restorer(Protocol):
    """The part of a decoder that makes a state of its saved bytes."""

    def restore(self, data: bytes) -> State: ...


def state_facts(manifest: Manifest) -> dict[str, str]:
    """What a state's bits depend on, besides its token ids."""
    return {name: str(getattr(manifest, name)) for name in _FACTS}


def state_path(folder: Path, ids: Sequence[int], facts: Mapping[str, str]) -> Path:
    """Where the state of these ids and facts is kept: the name is their hash."""
    key = json.dumps([FORMAT, sorted(facts.items())]).encode() + _id_bytes(ids)
    return folder / f"{hashlib.sha256(key).hexdigest()}.state"


def save_state(path: Path, state: State, ids: Sequence[int], facts: Mapping[str, str]) -> None:
    """Write a state that has read exactly `ids`. Other processes see the whole file or none."""
    if len(ids) != state.length:
        raise StateError(f"{len(ids)} ids given for a state of {state.length}")
    body = _id_bytes(ids) + state.save()
    header = {
        "format": FORMAT,
        "facts": dict(facts),
        "tokens": len(ids),
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    with replaced_file(path) as file:
        file.write(json.dumps(header).encode() + b"\n" + body)


def load_state(path: Path, decoder: Restorer, facts: Mapping[str, str]) -> tuple[tuple[int, ...], State]:
    """The ids and the state of a file. StateError when it is missing, torn, altered, or of other facts."""
    try:
        with open(path, "rb") as file:
            header = _header(path, file.readline(_LONGEST_HEADER), facts)
            body = file.read(header["bytes"] + 1)
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from None
    if len(body) != header["bytes"] or hashlib.sha256(body).hexdigest() != header.get("sha256"):
        raise StateError(f"{path}: torn or altered: its content does not fit its header")
    ids = np.frombuffer(body, "<i4", header["tokens"])
    state = decoder.restore(body[4 * header["tokens"] :])
    if state.length != len(ids):
        raise StateError(f"{path}: a state of {state.length} positions for {len(ids)} tokens")
    return tuple(ids.tolist()), state


def _header(path: Path, line: bytes, facts: Mapping[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StateError(f"{path}: not a state file of this version")
    if header.get("facts") != dict(facts):
        raise StateError(f"{path}: made with other weights, types, instruction set or version")
    tokens, size = header.get("tokens"), header.get("bytes")
    if not isinstance(tokens, int) or not isinstance(size, int) or not 0 <= 4 * tokens <= size:
        raise StateError(f"{path}: the header's counts cannot be")
    if size > path.stat().st_size:
        raise StateError(f"{path}: torn: {size} bytes expected")
    return header


def _id_bytes(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, "<i4").tobytes()
