"""Findings: what is wrong, what comes of it, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
Part = Literal["licence", "provenance", "identity", "card"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found. `id` names its kind, for good; `where` is a file or a field of one."""

    id: str
    part: Part
    severity: Severity
    where: str
    what: str
    consequence: str
    cure: str
