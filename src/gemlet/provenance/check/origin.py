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

_KINDS: Mapping[str, tuple[Severity, str, str]] = {
    "hash-differs": (
        "error",
        "it is damaged, or is not that file",
        "remove it and fetch it again",
    ),
    "other-revision": (
        "warning",
        "it is damaged, or of another revision than the one that is known",
        "compare the sha256 with the one on the repository's page",
    ),
    "origin-unknown": (
        "note",
        "nothing but its own word says where it comes from",
        "compare the sha256 with the one on the page that it was fetched from",
    ),
    "manifest-differs": (
        "error",
        "the files are not those that the manifest describes",
        "take the files and the manifest from one place, or make them again",
    ),
    "signer-differs": (
        "error",
        "it does not come from the owner of that key",
        "get it from them, or ask them for their public key",
    ),
    "signature-unverified": (
        "note",
        "the manifest may have been changed",
        "pip install 'gemlet[sign]' and check again",
    ),
    "signature-broken": (
        "error",
        "the manifest was changed after it was signed",
        "get it again from whoever signed it",
    ),
}
"""How bad each finding is, what comes of it, its cure."""


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
            what = f"its sha256 is {sha256}; {repository} published {release.sha256}"
            same = release.revision is not None and release.revision == subject.revision
            found.append(_finding("hash-differs" if same else "other-revision", name, what))
    weights = [file.name for file in subject.weight_files]
    if hashes and subject.manifest is None and not any(by_sha256(hashes[name]) for name in weights):
        what = "no known release has this hash, and there is no manifest"
        found.append(_finding("origin-unknown", ", ".join(weights[:3]), what))
    return found


def check_manifest(
    subject: Subject, quick: bool, signed_by: str | None = None
) -> tuple[list[Finding], dict[str, Any] | None]:
    """Whether files are what their manifest says, and its signature; with what it says, None without one.

    `signed_by`: the public key (base64) whose signature is wanted.
    """
    manifest = subject.manifest
    found = []
    key = manifest.signature.public_key if manifest is not None and manifest.signature is not None else None
    if signed_by is not None and key != signed_by:
        what = "there is no signature" if key is None else f"the key of its signature is {key}"
        found.append(_finding("signer-differs", "manifest", f"{what}, not {signed_by}"))
    if manifest is None:
        return found, None
    if not quick:
        found += [
            _finding("manifest-differs", "manifest", line) for line in changed_files(subject.path, manifest)
        ]
    state = "none"
    if manifest.signature is not None:
        try:
            state = "holds" if signature_holds(manifest) else "broken"
        except MissingExtraError as error:
            state = "not verified"
            found.append(_finding("signature-unverified", "manifest", error.message))
    if state == "broken":
        found.append(_finding("signature-broken", "manifest", "its signature is not that of its public key"))
    return found, manifest.document() | {"signature_state": state}


def _finding(id: str, where: str, what: str) -> Finding:
    severity, consequence, cure = _KINDS[id]
    return Finding(id, "provenance", severity, where, what, consequence, cure)


def file_sizes(subject: Subject) -> dict[str, int]:
    """Bytes of the weight files, by name."""
    return {file.name: Path(file).stat().st_size for file in subject.weight_files}
