"""Kinds of secrets and personal data that a text may hold, found by how they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_PLACEHOLDERS = re.compile(r"(?i)(@|\.)(example\.(com|org|net)|[\w-]+\.(test|example|invalid)|localhost)$")


def kinds_of(text: str) -> Iterator[str]:
    """The kinds of secrets in a text, each once. What they are is for nobody's eyes: it is not told."""
    for kind, hint, pattern, holds in _KINDS:
        if hint in text and any(holds(found[0]) for found in pattern.finditer(text)):
            yield kind
    if any(_is_card(found[0]) for found in _CARD.finditer(text)):
        yield "credit card number"


def _is_card(text: str) -> bool:
    """Luhn's check, over digits as card numbers begin."""
    digits = [int(digit) for digit in text if digit.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 3:
        return False
    doubled = [
        digit if i % 2 == 0 else sum(divmod(2 * digit, 10)) for i, digit in enumerate(reversed(digits))
    ]
    return sum(doubled) % 10 == 0


def _always(_: str) -> bool:
    return True


def _is_address(text: str) -> bool:
    return not _PLACEHOLDERS.search(text)


_CARD = re.compile(r"(?<![\w.-])[2-6][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{1,7}(?![\w-])", re.ASCII)

_PATTERNS: list[tuple[str, str, str, Callable[[str], bool]]] = [
    ("private key", "-----BEGIN ", r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY", _always),
    ("AWS key", "AKIA", r"(?<![A-Z0-9])AKIA[A-Z0-9]{16}(?![A-Z0-9])", _always),
    ("AWS key", "ASIA", r"(?<![A-Z0-9])ASIA[A-Z0-9]{16}(?![A-Z0-9])", _always),
    ("API key", "sk-", r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}", _always),
    ("GitHub token", "gh", r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36,}", _always),
    ("GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{22,}", _always),
    ("GitLab token", "glpat-", r"glpat-[A-Za-z0-9_-]{20,}", _always),
    ("Slack token", "xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,}", _always),
    ("Hugging Face token", "hf_", r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}", _always),
    ("Google API key", "AIza", r"AIza[A-Za-z0-9_-]{35}", _always),
    ("JSON web token", "eyJ", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}", _always),
    ("password in a URL", "://", r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,80}:[^\s/:@]{1,80}@[\w.-]", _always),
    ("e-mail address", "@", r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*\.[A-Za-z]{2,24}\b", _is_address),
]
_KINDS = [(kind, hint, re.compile(pattern, re.ASCII), holds) for kind, hint, pattern, holds in _PATTERNS]
