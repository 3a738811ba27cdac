"""How a derived file was made, in a JSON file beside it: read strictly, signed if asked, verified later.

    {"gemlet_manifest": 1, "files": [{"name", "nbytes", "sha256"}], "inputs": [{"role", "name", "repository",
     "revision", "sha256", "licence"}], "changes": ["…"], "quantisation": "q4_0", "licence": "gemma",
     "gemlet": "1.0", "created": "2026-01-31T12:00:00Z", "signature": {"algorithm", "public_key", "value"}}

A signature is Ed25519 over the UTF-8 of the document without `signature`, keys sorted, no spaces: whoever has
the public key can verify it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from gemlet.errors import GemletError, InvalidRequestError, MissingExtraError, ModelFileError
from gemlet.formats.files import file_sha256, read_json, replaced_file
from gemlet.version import __version__

FORMAT = 1
FOLDER_NAME = "gemlet_manifest.json"
FILE_SUFFIX = ".manifest.json"
ALGORITHM = "ed25519"

ROLES = ("source", "base", "adapter", "data", "importance")
"""What an input was: the weights that were changed, what those were made from, an adapter, a data file."""

_MOST = 1 << 12
_HASH, _DATE = r"[0-9a-f]{64}", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@dataclass(frozen=True)
class FileHash:
    """A file that was made: its name inside the folder, its size in bytes, its sha256."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Input:
    """Something that was used. `role`: one of ROLES. The rest is None where it is not known."""

    role: str
    name: str
    repository: str | None = None
    revision: str | None = None
    sha256: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Signature:
    """A signature and the key that verifies it, both base64."""

    algorithm: str
    public_key: str
    value: str


@dataclass(frozen=True)
class Derivation:
    """What a manifest says. `changes`: a line for each step. `created`: UTC, to the second."""

    files: tuple[FileHash, ...]
    inputs: tuple[Input, ...]
    changes: tuple[str, ...] = ()
    quantisation: str | None = None
    licence: str | None = None
    gemlet: str = __version__
    created: str = ""
    signature: Signature | None = None

    def document(self) -> dict[str, Any]:
        """As it is written."""
        return {"gemlet_manifest": FORMAT} | asdict(self)


def manifest_path(path: str | Path) -> Path:
    """Where the manifest of a file or a folder is."""
    path = Path(path)
    return path / FOLDER_NAME if path.is_dir() else path.with_name(path.name + FILE_SUFFIX)


def describe_files(path: str | Path, names: Iterable[str] | None = None) -> tuple[FileHash, ...]:
    """Hashes of a file, or of the named files of a folder (all of them without names; manifests apart)."""
    path = Path(path)
    if not path.is_dir():
        return (_hash(path, path.name),)
    chosen = names if names is not None else (str(file.relative_to(path)) for file in path.rglob("*"))
    return tuple(
        _hash(path / name, Path(name).as_posix())
        for name in sorted(chosen)
        if (path / name).is_file() and name != FOLDER_NAME
    )


def _hash(path: Path, name: str) -> FileHash:
    return FileHash(name, path.stat().st_size, file_sha256(path))


def derive(
    path: str | Path,
    inputs: Iterable[Input],
    *,
    changes: Iterable[str] = (),
    quantisation: str | None = None,
    licence: str | None = None,
    names: Iterable[str] | None = None,
) -> Derivation:
    """The manifest of a finished file or folder, made now. Raises InvalidRequestError for an unknown role."""
    inputs = tuple(inputs)
    for part in inputs:
        if part.role not in ROLES:
            raise InvalidRequestError(f"{part.role!r} is not a role; known: {', '.join(ROLES)}")
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Derivation(
        describe_files(path, names), inputs, tuple(changes), quantisation, licence, __version__, now
    )


def write_manifest(path: str | Path, derivation: Derivation, key: str | Path | None = None) -> Path:
    """Write the manifest of a file or folder, signed with the private key in the file `key` if there is one.

    Returns where it was written. Raises MissingExtraError when signing is not installed, GemletError for what
    is no key.
    """
    if key is not None:
        derivation = sign(derivation, key)
    target = manifest_path(path)
    with replaced_file(target) as file:
        file.write((json.dumps(derivation.document(), indent=2, ensure_ascii=False) + "\n").encode())
    return target


def read_manifest(path: str | Path) -> Derivation | None:
    """The manifest of a file or folder; None where there is none. Raises ModelFileError for a broken one."""
    target = manifest_path(path)
    if not target.exists():
        return None
    return _Reader(target, read_json(target)).derivation()


def changed_files(path: str | Path, derivation: Derivation) -> tuple[str, ...]:
    """A line for each file that is no longer what the manifest says; reads every file it names."""
    path = Path(path)
    lines = []
    for stated in derivation.files:
        file = path / stated.name if path.is_dir() else path.with_name(stated.name)
        if not file.is_file():
            lines.append(f"{stated.name} is missing")
        elif file.stat().st_size != stated.nbytes:
            lines.append(f"{stated.name} has {file.stat().st_size} bytes, not {stated.nbytes}")
        elif (found := file_sha256(file)) != stated.sha256:
            lines.append(f"{stated.name} has the sha256 {found}, not {stated.sha256}")
    return tuple(lines)


def signed_bytes(derivation: Derivation) -> bytes:
    """What a signature is over."""
    document = derivation.document()
    del document["signature"]
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def create_key(path: str | Path) -> str:
    """Write a new private key (PEM, readable by its owner only) and return its public key, base64.

    An existing file is left alone: GemletError. Raises MissingExtraError when signing is not installed.
    """
    keys, serialization = _library()
    private = keys.Ed25519PrivateKey.generate()
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise GemletError(f"{path}: there is a file already", hint="name another file for the key") from None
    with os.fdopen(handle, "wb") as file:
        file.write(text)
    return _public(private)


def sign(derivation: Derivation, key: str | Path) -> Derivation:
    """The derivation with a signature by the private key in a PEM file."""
    keys, serialization = _library()
    try:
        private = serialization.load_pem_private_key(Path(key).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise GemletError(f"{key}: is not a private key without a password ({error})") from error
    if not isinstance(private, keys.Ed25519PrivateKey):
        raise GemletError(f"{key}: is not an Ed25519 key")
    value = base64.b64encode(private.sign(signed_bytes(derivation))).decode()
    return replace(derivation, signature=Signature(ALGORITHM, _public(private), value))


def signature_holds(derivation: Derivation) -> bool:
    """Whether the signature is that of its own public key over this manifest.

    Whose key it is, only whoever knows the public key can tell. Raises MissingExtraError when signing is not
    installed, InvalidRequestError for a manifest without a signature.
    """
    if derivation.signature is None:
        raise InvalidRequestError("the manifest has no signature")
    keys, _ = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        public = keys.Ed25519PublicKey.from_public_bytes(
            base64.b64decode(derivation.signature.public_key, validate=True)
        )
        public.verify(base64.b64decode(derivation.signature.value, validate=True), signed_bytes(derivation))
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def _public(private: Any) -> str:
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingExtraError("signing a manifest and verifying a signature", "sign") from None
    return ed25519, serialization


class _Reader:
    """Checks a manifest field by field."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document

    def fail(self, field: str, problem: str) -> NoReturn:
        raise ModelFileError(self.path, field, problem)

    def derivation(self) -> Derivation:
        document = self.document
        if document.get("gemlet_manifest") != FORMAT:
            self.fail("gemlet_manifest", f"is {str(document.get('gemlet_manifest'))[:20]}, not {FORMAT}")
        known = {"gemlet_manifest", *Derivation.__dataclass_fields__}
        if unknown := sorted(document.keys() - known):
            self.fail(unknown[0], "is not a part of a manifest")
        changes = document.get("changes", [])
        if not isinstance(changes, list) or not all(isinstance(line, str) for line in changes):
            self.fail("changes", "is not a list of texts")
        signature = document.get("signature")
        return Derivation(
            files=tuple(self.file(part, f"files[{i}]") for i, part in enumerate(self.parts("files"))),
            inputs=tuple(self.input(part, f"inputs[{i}]") for i, part in enumerate(self.parts("inputs"))),
            changes=tuple(changes),
            quantisation=self.text(document, "quantisation"),
            licence=self.text(document, "licence"),
            gemlet=self.needed(document, "gemlet"),
            created=self.needed(document, "created", pattern=_DATE),
            signature=None if signature is None else self.signature(signature),
        )

    def parts(self, name: str) -> list[dict[str, Any]]:
        parts = self.document.get(name)
        if (
            not isinstance(parts, list)
            or len(parts) > _MOST
            or not all(isinstance(part, dict) for part in parts)
        ):
            self.fail(name, f"is not a list of at most {_MOST} objects")
        return parts

    def text(self, part: dict[str, Any], key: str, field: str = "", pattern: str = ".*") -> str | None:
        value = part.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > _MOST or not re.fullmatch(pattern, value, re.DOTALL):
            self.fail(f"{field}{key}", f"is {str(value)[:40]!r}, which cannot be")
        return value

    def needed(self, part: dict[str, Any], key: str, field: str = "", pattern: str = ".+") -> str:
        value = self.text(part, key, field, pattern)
        if value is None:
            self.fail(f"{field}{key}", "is missing")
        return value

    def only(self, part: dict[str, Any], kind: type[FileHash | Input | Signature], field: str) -> None:
        if unknown := sorted(part.keys() - {one.name for one in fields(kind)}):
            self.fail(f"{field}.{unknown[0]}", "is not a part of a manifest")

    def file(self, part: dict[str, Any], field: str) -> FileHash:
        self.only(part, FileHash, field)
        name = self.needed(part, "name", f"{field}.")
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or ":" in name:
            self.fail(f"{field}.name", f"{name[:80]!r} leads out of the folder")
        nbytes = part.get("nbytes")
        if type(nbytes) is not int or nbytes < 0:
            self.fail(f"{field}.nbytes", "is not a number of bytes")
        return FileHash(name, nbytes, self.needed(part, "sha256", f"{field}.", _HASH))

    def input(self, part: dict[str, Any], field: str) -> Input:
        self.only(part, Input, field)
        role = self.needed(part, "role", f"{field}.")
        if role not in ROLES:
            self.fail(f"{field}.role", f"is {role[:40]!r}; known are {', '.join(ROLES)}")
        optional = {
            key: self.text(part, key, f"{field}.", _HASH if key == "sha256" else ".*")
            for key in ("repository", "revision", "sha256", "licence")
        }
        return Input(role, self.needed(part, "name", f"{field}."), **optional)

    def signature(self, part: Any) -> Signature:
        if not isinstance(part, dict):
            self.fail("signature", "is not an object")
        self.only(part, Signature, "signature")
        values = [self.needed(part, key, "signature.") for key in ("algorithm", "public_key", "value")]
        if values[0] != ALGORITHM:
            self.fail("signature.algorithm", f"is {values[0][:20]!r}; known is {ALGORITHM}")
        return Signature(*values)
