"""All checks of a path in one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from gemlet.provenance.check.card import card_facts, check_card, cross_reference, lineage_of
from gemlet.provenance.check.checkpoint import check_adapter, check_checkpoint
from gemlet.provenance.check.findings import Finding
from gemlet.provenance.check.identity import check_gguf, shape_of
from gemlet.provenance.check.licence_check import (
    check_duties,
    check_statements,
    is_derived,
    origins,
    statements,
    terms_of,
)
from gemlet.provenance.check.origin import (
    check_hashes,
    check_manifest,
    file_sizes,
    hash_files,
    known_releases,
)
from gemlet.provenance.check.published import Published, published
from gemlet.provenance.check.subject import Subject, open_subject
from gemlet.provenance.gemma_policy import SOURCE, VERSION, match_uses
from gemlet.provenance.licences import Licence


@dataclass(frozen=True)
class Report:
    """What was found and what is known. `terms`: the licences that apply. `facts`: JSON-ready."""

    path: str
    findings: tuple[Finding, ...]
    terms: tuple[Licence, ...]
    derived: bool
    repositories: tuple[str, ...]
    hashes: dict[str, str]
    sizes: dict[str, int]
    facts: dict[str, Any]

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        return sum(finding.severity == "warning" for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """The report as JSON-ready containers."""
        return {
            "path": self.path,
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [asdict(finding) for finding in self.findings],
            "terms": [asdict(licence) for licence in self.terms],
            "derived": self.derived,
            "sha256": self.hashes,
            "bytes": self.sizes,
            **self.facts,
        }


def check(path: str | Path, *, quick: bool = False, signed_by: str | None = None) -> Report:
    """Check a file or folder. `quick`: files are not hashed, tensors not read. `signed_by`: a public key.

    Raises ModelNotFoundError where there is nothing, ModelFileError for what is no model or is cut off.
    """
    subject = open_subject(path)
    hashes = {} if quick else hash_files(subject)
    card = card_facts(subject.card, subject.repository)
    repositories = origins(subject, card, hashes)
    stated = statements(subject, card, repositories)
    terms = terms_of(stated)
    derived = is_derived(subject, repositories, hashes)
    findings = check_statements(stated)
    if subject.kind == "folder":
        findings += [finding for licence in terms for finding in check_duties(subject.path, licence, derived)]
    findings += check_hashes(subject, hashes)
    more, manifest = check_manifest(subject, quick, signed_by)
    findings += more
    identity = _identity(subject, quick)
    findings += identity
    model, parameters = _shape(subject), _parameters(subject)
    if subject.kind == "folder" or subject.card is not None:
        findings += check_card(card, model, parameters)
    facts = {
        "statements": [
            {"where": item.where, "says": item.says, "licence": item.licence.id if item.licence else None}
            for item in stated
        ],
        "lineage": lineage_of(repositories[:1] or []) or [{"repository": name} for name in repositories],
        "releases": known_releases(hashes),
        "manifest": manifest,
        "card": card,
        "published": cross_reference(model, card, parameters, identity),
        "quick": quick,
    }
    order = ("error", "warning", "note")
    ordered = sorted(findings, key=lambda finding: order.index(finding.severity))
    return Report(
        str(path),
        tuple(ordered),
        tuple(terms),
        derived,
        tuple(repositories),
        hashes,
        file_sizes(subject),
        facts,
    )


def uses(description: str, terms: Sequence[Licence]) -> dict[str, Any]:
    """What may stand in the way of a described product: a keyword match, and the thresholds of the terms."""
    matches = match_uses(description) if any(licence.id == "gemma" for licence in terms) else ()
    return {
        "description": description,
        "matches": [asdict(match) for match in matches],
        "source": SOURCE,
        "version": VERSION,
        "thresholds": [
            {
                "licence": licence.name,
                "size": licence.size_threshold,
                "revenue": licence.revenue_threshold,
                "commercial": licence.commercial,
                "url": licence.url,
                "policy": licence.policy,
            }
            for licence in terms
        ],
    }


def _identity(subject: Subject, quick: bool) -> list[Finding]:
    found = [finding for file in subject.ggufs for finding in check_gguf(file, quick)]
    if subject.checkpoint is not None:
        found += check_checkpoint(subject.checkpoint, quick)
    if subject.adapter is not None:
        found += check_adapter(subject.adapter, quick)
    return found


def _shape(subject: Subject) -> Published | None:
    if subject.checkpoint is not None:
        config = subject.checkpoint.config
        return published(config.get("hidden_size"), config.get("num_hidden_layers"))
    return shape_of(subject.ggufs[0]) if len(subject.ggufs) == 1 else None


def _parameters(subject: Subject) -> int | None:
    """The parameters in the tensors of the one model, a copy of the head left out."""
    tensors = subject.checkpoint.tensors if subject.checkpoint is not None else None
    if tensors is None and len(subject.ggufs) == 1:
        tensors = subject.ggufs[0].tensors
    if tensors is None:
        return None
    return sum(
        prod(tensor.shape)
        for name, tensor in tensors.items()
        if name not in ("output.weight", "lm_head.weight")
    )
