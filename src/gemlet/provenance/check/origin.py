"""Where files come from: hashes against known releases, the manifest, its signature."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemlet.errors import MissingExtraError
from gemlet.formats.files import file_sha256
from gemlet.model.folder_source import description_files
from gemlet.provenance.check.findings import Finding, Severity
from gemlet.provenance.check.subject import Subject
from gemlet.provenance.manifest import changed_files, signature_holds
from gemlet.provenance.releases import by_file, by_sha256


def hash_files(subject: Subject) -> dict[str, str]:
    """sha256 of the weights and of the files that describe them, by name."""
    files = list(subject.weight_files)
    if subject.checkpoint is not None:
        files += description_files(subject.path)
    return {file.name: file_sha256(file) for file in files}


def known_releases(hashes: Mapping[str, str]) -> list[dict[str, Any]]:
    """The files that are known, each with the release it is."""
    return [
        {
            "file": name,
            "sha256": sha256,
            "repository": release.repository,
            "revision": release.revision,
            "original": release.original,
            "remark": release.remark,
        }
        for name, sha256 in hashes.items()
        for release in by_sha256(sha256)
    ]


def check_hashes(subject: Subject, hashes: Mapping[str, str]) -> list[Finding]:
    """Files of a known repository that are not what it published, and weights that nothing is known about."""
    found = []
    repository = subject.repository
    for name, sha256 in hashes.items():
        release = None if repository is None else by_file(repository, name)
        if release is not None and release.sha256 != sha256:
            found.append(
                _finding(
                    "hash-differs",
                    "error",
                    name,
                    f"its sha256 is {sha256}; {repository} published {release.sha256}",
                    "it is damaged, or is not that file",
                    "fetch it again; the publisher may also have a newer revision",
                )
            )
    weights = [file.name for file in subject.weight_files]
    if hashes and subject.manifest is None and not any(by_sha256(hashes[name]) for name in weights):
        found.append(
            _finding(
                "origin-unknown",
                "note",
                ", ".join(weights[:3]),
                "no known release has this hash, and there is no manifest",
                "nothing but its own word says where it comes from",
                "compare the sha256 with the one on the page that it was fetched from",
            )
        )
    return found


def check_manifest(subject: Subject, quick: bool) -> tuple[list[Finding], dict[str, Any] | None]:
    """Whether files are what their manifest says, and its signature; with what it says, None without one."""
    manifest = subject.manifest
    if manifest is None:
        return [], None
    found = []
    for line in () if quick else changed_files(subject.path, manifest):
        found.append(
            _finding(
                "manifest-differs",
                "error",
                "manifest",
                line,
                "the files are not those that the manifest describes",
                "take the files and the manifest from one place, or make them again",
            )
        )
    state = "none"
    if manifest.signature is not None:
        try:
            state = "holds" if signature_holds(manifest) else "broken"
        except MissingExtraError as error:
            state = "not verified"
            found.append(
                _finding(
                    "signature-unverified",
                    "note",
                    "manifest",
                    "its signature was not verified",
                    "the manifest may have been changed",
                    error.hint or "",
                )
            )
    if state == "broken":
        found.append(
            _finding(
                "signature-broken",
                "error",
                "manifest",
                "its signature is not that of its public key",
                "the manifest was changed after it was signed",
                "get it again from whoever signed it",
            )
        )
    return found, manifest.document() | {"signature_state": state}


def _finding(id: str, severity: Severity, where: str, what: str, consequence: str, cure: str) -> Finding:
    return Finding(id, "provenance", severity, where, what, consequence, cure)


def file_sizes(subject: Subject) -> dict[str, int]:
    """Bytes of the weight files, by name."""
    return {file.name: Path(file).stat().st_size for file in subject.weight_files}
