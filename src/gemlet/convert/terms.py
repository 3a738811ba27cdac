"""The files that the terms of the weights ask to travel with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gemlet.convert.staging import staged
from gemlet.formats.files import map_file
from gemlet.model.families import FAMILIES
from gemlet.model.folder_source import CARD
from gemlet.model.sources import Source
from gemlet.provenance.licences import Licence, find_licence
from gemlet.version import __version__

LICENCE, MODIFICATIONS, POLICY = "LICENSE", "MODIFICATIONS", "PROHIBITED_USE_POLICY"
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Origin:
    """What was exported: what the model is called, the sha256 of its weights, and of the adapter."""

    reference: str
    weights_sha256: str
    adapter: str | None = None
    adapter_sha256: str | None = None


def licences_of(source: Source) -> list[Licence]:
    """The terms of the family, and those that the files state: a derivative is under both."""
    named = [FAMILIES[source.config.family].licence, source.facts.licence]
    found = [find_licence(name) for name in named if name]
    return list({licence.id: licence for licence in found if licence is not None}.values())


def terms_files(source: Source, origin: Origin, changes: Iterable[str]) -> dict[str, bytes]:
    """Names and contents of the files for these weights; nothing where their terms are not known.

    A text that the source's folder holds is copied, since it may be the agreement itself.
    """
    files: dict[str, str] = {}
    licences = licences_of(source)
    if licences:
        files[LICENCE] = "\n".join(_agreement(licence) for licence in licences)
    for licence in licences:
        if licence.notice is not None:
            files[licence.notice_file] = licence.notice + "\n"
        if licence.policy is not None:
            files[POLICY] = (
                f"The {licence.name} forbid the uses listed at {licence.policy}\n"
                "That list is a part of the terms: it binds whoever uses these weights.\n"
            )
    files[MODIFICATIONS] = _modifications(origin, changes)
    contents = {name: text.encode() for name, text in files.items()}
    return contents | _copied(source, contents)


def licence_card(source: Source) -> dict[str, bytes]:
    """README.md, the only file of a folder that can state a licence; nothing where the family says it all."""
    licence = source.facts.licence
    if not licence or licence == FAMILIES[source.config.family].licence:
        return {}
    return {
        CARD: f"---\nlicense: {licence}\n---\n\nSee {MODIFICATIONS} for what this was made from.\n".encode()
    }


def _agreement(licence: Licence) -> str:
    version = f", version {licence.version}" if licence.version else ""
    lines = [f"These weights are under the {licence.name}{version}: {licence.url}"]
    lines += [f"- {line}" for line in licence.summary]
    if licence.duties:
        lines += ["", "Whoever passes them on must:"]
        lines += [f"- {duty.text} ({duty.section})" for duty in licence.duties]
    return "\n".join(
        [
            *lines,
            "",
            "This is a summary. The text at the address binds; add a copy when you pass this on.",
            "",
        ]
    )


def _modifications(origin: Origin, changes: Iterable[str]) -> str:
    lines = [
        f"This is a modified copy of {origin.reference}, made by gemlet {__version__}.",
        f"The weights it was made from have the sha256 {origin.weights_sha256}.",
    ]
    if origin.adapter is not None:
        lines.append(f"The adapter {origin.adapter} has the sha256 {origin.adapter_sha256}.")
    return "\n".join([*lines, *(f"- {change}" for change in changes), ""])


def _copied(source: Source, names: Mapping[str, bytes]) -> dict[str, bytes]:
    """Texts of the source's own folder under the same names, the list of modifications apart."""
    if source.facts.format != "huggingface":
        return {}
    folder = Path(source.facts.path)
    found = {name: folder / name for name in names if name != MODIFICATIONS}
    return {
        name: map_file(path, at_least=0).tobytes()
        for name, path in found.items()
        if path.is_file() and path.stat().st_size <= _MOST_BYTES
    }


def write_beside(file: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write texts into the folder of a file, and return where.

    One that is there with another content stays as it is: the new one is then named after the file.
    """
    written = []
    for name, content in contents.items():
        path = file.with_name(name)
        if path.exists() and not (path.is_file() and path.read_bytes() == content):
            path = file.with_name(f"{file.name}.{name}")
        with staged(path, len(content), force=True) as stage:
            stage.write_bytes(content)
        written.append(path)
    return written
