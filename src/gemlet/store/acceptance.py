"""Which terms of weights the person has accepted, and when: a JSON file in the data folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from gemlet.errors import LicenceError
from gemlet.formats.files import replaced_file
from gemlet.provenance.licences import Licence
from gemlet.store.settings import data_dir


@dataclass(frozen=True)
class Acceptance:
    """Terms that were accepted: their version, when (UTC), and for which repository first."""

    licence: str
    version: str | None
    accepted: str
    repository: str


def acceptances(environ: Mapping[str, str] = os.environ) -> dict[str, Acceptance]:
    """What was accepted, by licence. Raises LicenceError where the file cannot be understood."""
    path = acceptance_file(environ)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["accepted"]
        return {entry["licence"]: Acceptance(**entry) for entry in entries}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "move it away; the terms will be asked for again"
        raise LicenceError(f"{path}: cannot be read: {error}", hint=hint) from None


def accepted(licence: Licence, environ: Mapping[str, str] = os.environ) -> Acceptance | None:
    """The acceptance of this version of the terms, None where there is none."""
    found = acceptances(environ).get(licence.id)
    return found if found is not None and found.version == licence.version else None


def accept(licence: Licence, repository: str, environ: Mapping[str, str] = os.environ) -> Acceptance:
    """Record that the person accepts these terms, now. Raises LicenceError where that cannot be written."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    new = Acceptance(licence.id, licence.version, now, repository)
    path, known = acceptance_file(environ), acceptances(environ) | {licence.id: new}
    try:
        with replaced_file(path) as file:
            document = {"accepted": [asdict(entry) for entry in known.values()]}
            file.write(json.dumps(document, indent=2).encode() + b"\n")
    except OSError as error:
        hint = "XDG_DATA_HOME names another folder"
        raise LicenceError(f"{path}: cannot be written: {error.strerror}", hint=hint) from None
    return new


def acceptance_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where it is kept."""
    return data_dir(environ) / "licences.json"
