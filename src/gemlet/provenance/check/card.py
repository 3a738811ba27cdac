"""A model card: what it states, what it leaves out, and where it differs from the publisher's figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gemlet.provenance.check.findings import Finding, Severity
from gemlet.provenance.check.front_matter import FrontMatterError, read_front_matter, split_card
from gemlet.provenance.check.published import (
    CARD_URL,
    CONFIGURATION_SOURCE,
    REPORT_ARXIV,
    TOKENIZER_URL,
    WRONG_CITATIONS,
    Published,
)
from gemlet.provenance.releases import lineage

_ARXIV = re.compile(r"(?:arxiv\.org/(?:abs|pdf|html)/|arxiv:\s*)(\d{4}\.\d{4,5})", re.IGNORECASE)
_SCORE = re.compile(
    r"^\|\s*(\[?[^|]{2,80}?)\s*\|(?:[^|\n]*\|){0,3}?\s*\**(\d{1,3}(?:\.\d+)?)\s*%?\**\s*\|", re.MULTILINE
)
_LINK = re.compile(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])?")
_MOST_SCORES = 200
_OF_TOKENIZER = {"vocabulary", "piece-types", "piece-scores", "space-prefix", "special-ids", "bos-flag"}
_OF_CONFIGURATION = {"window", "rope-theta", "head-dim", "size-differs", "sparse-config"}


def card_facts(text: str | None, repository: str | None = None) -> dict[str, Any]:
    """What a card states, JSON-ready; `problem` says why its front matter could not be read."""
    if text is None:
        return {"present": False}
    try:
        fields, problem = read_front_matter(text), None
    except FrontMatterError as error:
        fields, problem = {}, error.message
    _, body = split_card(text)
    return {
        "present": True,
        "problem": problem,
        "publisher": repository.split("/")[0] if repository else _text(fields.get("author")),
        "base_models": _list(fields.get("base_model")),
        "base_model_relation": _text(fields.get("base_model_relation")),
        "licence": _text(fields.get("license")),
        "licence_name": _text(fields.get("license_name")),
        "licence_link": _text(fields.get("license_link")),
        "tags": _list(fields.get("tags")),
        "datasets": _list(fields.get("datasets")),
        "papers": sorted(set(_ARXIV.findall(text))),
        "training_data": _training_data(body),
        "scores": _scores(body),
        "parameters": _parameters(body),
    }


def check_card(facts: dict[str, Any], model: Published | None, parameters: int | None) -> list[Finding]:
    """What a card lacks or gets wrong. `model`: the published one of this shape; `parameters`: counted."""
    if not facts["present"]:
        cure = "write one: base model, licence, data, how it was made"
        return [
            _finding("card-missing", "note", "there is no README.md", "nobody can tell what this is", cure)
        ]
    found = []
    if facts["problem"]:
        what = "tools read no field of the card"
        found.append(_finding("card-unreadable", "warning", facts["problem"], what, "put the line right"))
    needed = {"licence": "license", "base_models": "base_model", "training_data": "what it was trained on"}
    missing = [name for key, name in needed.items() if not facts[key]]
    if missing and not facts["problem"]:
        what, then = f"it does not state {', '.join(missing)}", "whoever uses it cannot judge its origin"
        found.append(_finding("card-incomplete", "note", what, then, "add it to README.md"))
    for paper in facts["papers"]:
        if paper in WRONG_CITATIONS:
            what, then = f"arXiv {paper} is cited for another paper", "readers are led to the wrong paper"
            found.append(_finding("citation", "note", what, then, WRONG_CITATIONS[paper]))
    if model is not None and parameters is not None and parameters != model.parameters:
        what = f"the tensors hold {parameters:,} parameters, {model.name} has {model.parameters:,}"
        then = "it is not the published model unchanged"
        found.append(_finding("parameter-count", "warning", what, then, f"compare with {CARD_URL}"))
    return found


def cross_reference(
    model: Published | None, facts: dict[str, Any], parameters: int | None, found: Sequence[Finding]
) -> dict[str, Any]:
    """The publisher's own figures beside those of the files and the card; `found`: what identity found."""
    if model is None:
        return {}
    ids = {finding.id for finding in found}
    return {
        "model": model.name,
        "source": CARD_URL,
        "report": f"arXiv {REPORT_ARXIV}",
        "parameters": {"published": model.parameters, "counted": parameters, "card": facts.get("parameters")},
        "training_tokens": model.training_tokens,
        "tokenizer": {"source": TOKENIZER_URL, "differs": sorted(ids & _OF_TOKENIZER)},
        "configuration": {"source": CONFIGURATION_SOURCE, "differs": sorted(ids & _OF_CONFIGURATION)},
    }


def lineage_of(names: list[str]) -> list[dict[str, Any]]:
    """What the named repositories are known to have been made from, newest first."""
    return [
        {
            "repository": step.name,
            "made_from": step.base,
            "relation": step.relation,
            "licence": step.licence,
            "gated": step.gated,
        }
        for name in names
        for step in lineage(name)
    ]


def _finding(id: str, severity: Severity, what: str, consequence: str, cure: str) -> Finding:
    return Finding(id, "card", severity, "README.md", what, consequence, cure)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _list(value: object) -> list[str]:
    """The texts of a list, or one text as a list."""
    return [str(item) for item in (value if isinstance(value, list) else [value]) if item]


def _training_data(body: str) -> str | None:
    """The first line under a heading on training data, shortened."""
    lines = iter(body.splitlines())
    for line in lines:
        if line.startswith("#") and re.search(r"training data|dataset|trained on", line[:200], re.IGNORECASE):
            return next((text.strip()[:300] for text in lines if text.strip()), None)
    return None


def _scores(body: str) -> list[dict[str, Any]]:
    """The rows of tables that end in a number of at most three digits."""
    rows = _SCORE.findall(body)[:_MOST_SCORES]
    return [{"name": _LINK.sub(r"\1", name).strip("* "), "value": float(value)} for name, value in rows]


def _parameters(body: str) -> str | None:
    match = re.search(r"\b(\d[\d.,]{0,12}\s?(?:billion|million|[BM]))\s{1,3}parameters", body, re.IGNORECASE)
    return match[1] if match else None
