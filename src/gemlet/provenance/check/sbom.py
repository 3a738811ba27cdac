"""A bill of materials of a model: CycloneDX 1.6, JSON."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gemlet.provenance.check.report import Report
from gemlet.provenance.licences import Licence
from gemlet.provenance.releases import Repository, lineage
from gemlet.version import __version__


def bill_of_materials(report: Report) -> dict[str, Any]:
    """The document: the model, its files with their hashes, its licences, what it was made from."""
    name = Path(report.path).resolve().name
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "licenses": _licences(report.terms),
        "pedigree": {"ancestors": _ancestors(report)},
        "modelCard": _model_card(report),
        "properties": [
            {"name": f"gemlet:check:{finding.severity}", "value": f"{finding.id}: {finding.what}"}
            for finding in report.findings
        ],
    }
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{file}",
            "name": file,
            "hashes": [{"alg": "SHA-256", "content": sha256}],
        }
        for file, sha256 in sorted(report.hashes.items())
    ]
    if len(files) == 1:
        model["hashes"] = files[0]["hashes"]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "gemlet", "version": __version__}]},
            "component": model,
        },
        "components": files,
        "dependencies": [{"ref": "model", "dependsOn": [file["bom-ref"] for file in files]}],
    }


def _licences(terms: tuple[Licence, ...]) -> list[dict[str, Any]]:
    return [
        {"license": ({"id": licence.spdx} if licence.spdx else {"name": licence.name}) | {"url": licence.url}}
        for licence in terms
    ]


def _ancestors(report: Report) -> list[dict[str, Any]]:
    """The inputs that a manifest names, then what is known of the lineage."""
    inputs: list[Mapping[str, Any]] = (report.facts["manifest"] or {}).get("inputs", [])
    found = [
        {"type": "data" if part["role"] == "data" else "machine-learning-model", "name": part["name"]}
        | ({"version": part["revision"]} if part["revision"] else {})
        | ({"hashes": [{"alg": "SHA-256", "content": part["sha256"]}]} if part["sha256"] else {})
        for part in inputs
    ]
    known: list[Repository] = []
    for name in report.repositories:
        known += [step for step in lineage(name) if step not in known]
    return found + [
        {
            "type": "machine-learning-model",
            "name": step.name,
            "externalReferences": [{"type": "distribution", "url": f"https://huggingface.co/{step.name}"}],
        }
        for step in known
    ]


def _model_card(report: Report) -> dict[str, Any]:
    card, model = report.facts["card"], report.facts["published"]
    parameters: dict[str, Any] = {"task": "text-generation"}
    if model:
        parameters |= {"architectureFamily": "gemma3", "modelArchitecture": model["model"]}
    if card.get("datasets"):
        parameters["datasets"] = [{"type": "dataset", "name": name} for name in card["datasets"]]
    return {"modelParameters": parameters}
