"""Which terms apply to a model through its lineage, what passing it on asks for, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemlet.model.families import GEMMA3
from gemlet.provenance.check.claims import names_of
from gemlet.provenance.check.findings import Finding, Severity
from gemlet.provenance.check.subject import Subject
from gemlet.provenance.licences import Licence, find_licence
from gemlet.provenance.releases import REPOSITORIES, by_sha256

_MOST_TEXT = 1 << 20
_ARCHITECTURE = "general.architecture"
_REPOSITORY = re.compile(r"(?:https?://huggingface\.co/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?")


@dataclass(frozen=True)
class Statement:
    """Something that names a licence or implies it: where, what it says, the licence (None: unknown)."""

    where: str
    says: str
    licence: Licence | None


def origins(subject: Subject, card: Mapping[str, Any], hashes: Mapping[str, str]) -> list[str]:
    """Repositories that the files name, or that are known to hold them: what it is, what it was made from."""
    named: list[str] = [subject.repository] if subject.repository else []
    named += [release.repository for sha256 in hashes.values() for release in by_sha256(sha256)]
    named += card.get("base_models", [])
    for file in subject.ggufs:
        named += names_of(file.metadata)
    if subject.adapter is not None:
        named.append(str(subject.adapter.config.get("base_model_name_or_path", "")))
        named += [release.repository for release in by_sha256(subject.adapter.base_sha256 or "")]
    if subject.checkpoint is not None:
        named.append(str(subject.checkpoint.config.get("_name_or_path", "")))
    if subject.manifest is not None:
        named += [part.repository or "" for part in subject.manifest.inputs if part.role != "data"]
    found = [match[1] for name in named if (match := _REPOSITORY.fullmatch(name.strip()))]
    return list(dict.fromkeys(found))


def statements(subject: Subject, card: Mapping[str, Any], repositories: list[str]) -> list[Statement]:
    """Everything that says which terms apply."""
    found = _stated(subject, card)
    for repository in repositories:
        if repository in REPOSITORIES:
            text = REPOSITORIES[repository].licence
            found.append(Statement(f"lineage: {repository}", text, find_licence(text)))
    by_architecture = [file.path for file in subject.ggufs if file.metadata.get(_ARCHITECTURE) == GEMMA3.name]
    if subject.checkpoint is not None and subject.checkpoint.config.get("model_type") == GEMMA3.hf_model_type:
        by_architecture.append("config.json")
    known = find_licence(GEMMA3.licence)
    for path in by_architecture:  # only Gemma has this architecture
        found.append(Statement(f"{Path(path).name}: architecture {GEMMA3.name}", GEMMA3.licence, known))
    return found


def _stated(subject: Subject, card: Mapping[str, Any]) -> list[Statement]:
    """What the files say of themselves."""
    found = []
    for file in subject.ggufs:
        text = file.metadata.get("general.license")
        if isinstance(text, str):
            found.append(Statement(f"{Path(file.path).name}: general.license", text, find_licence(text)))
    name = card.get("licence")
    if name == "other":
        name = card.get("licence_name") or "other"
    if name:
        found.append(Statement("README.md: license", name, find_licence(name)))
    if subject.manifest is not None and subject.manifest.licence is not None:
        text = subject.manifest.licence
        found.append(Statement("manifest: licence", text, find_licence(text)))
    return found


def terms_of(found: list[Statement]) -> list[Licence]:
    """The licences that apply: those that follow from the lineage first, then those that the files state."""
    ordered = sorted(found, key=lambda statement: not _implied(statement))
    return list({item.licence.id: item.licence for item in ordered if item.licence is not None}.values())


def check_statements(found: list[Statement]) -> list[Finding]:
    """Statements that are missing, unknown, or contradict what the weights are under."""
    findings = []
    stated = [statement for statement in found if not _implied(statement)]
    implied = {
        statement.licence.id: statement for statement in found if statement.licence and _implied(statement)
    }
    if not stated:
        findings.append(
            _finding(
                "licence-unstated",
                "warning",
                "the files",
                "no file states a licence",
                "whoever gets it does not know the terms, which apply all the same",
                "set general.license, or license in the front matter of README.md",
            )
        )
    for statement in stated:
        if statement.licence is None:
            findings.append(
                _finding(
                    "licence-unknown",
                    "warning",
                    statement.where,
                    f"{statement.says[:80]!r} is not in the register",
                    "what it asks for was not checked",
                    "read its text yourself; a card may give it as license_link",
                )
            )
        elif implied and statement.licence.id not in implied:
            right = next(iter(implied.values()))
            assert right.licence is not None
            findings.append(
                _finding(
                    "licence-mislabelled",
                    "error",
                    statement.where,
                    f"it says {statement.licence.name}; {right.where} means {right.licence.name}",
                    "a derivative stays under the terms of its original, whatever its label says",
                    f"state {right.licence.id}; terms of your own must not conflict",
                )
            )
    return findings


def _implied(statement: Statement) -> bool:
    return statement.where.startswith("lineage: ") or ": architecture " in statement.where


def is_derived(subject: Subject, repositories: list[str], hashes: Mapping[str, str]) -> bool:
    """Whether the files are somebody's modification: not all are an original's own, as far as known."""
    if subject.manifest is not None or subject.adapter is not None:
        return True
    known = [release for sha256 in hashes.values() for release in by_sha256(sha256)]
    if known and all(release.original for release in known):
        return False
    return bool(subject.ggufs) or any(
        REPOSITORIES[name].base for name in repositories if name in REPOSITORIES
    )


def check_duties(folder: Path, licence: Licence, derived: bool) -> list[Finding]:
    """What a folder lacks to be passed on under a licence, as far as files can tell."""
    findings = []
    texts = read_texts(folder)
    everything = "\n".join(texts.values())
    for duty in licence.duties:
        lacking = _lacking(duty.id, licence, texts, everything, derived)
        if lacking:
            findings.append(
                _finding(
                    f"missing-{duty.id}",
                    "warning",
                    str(folder),
                    lacking,
                    f"passing the folder on breaks {licence.name}, section {duty.section}: {duty.text}",
                    f"gemlet check --fix {folder}"
                    if licence.id == "gemma" or duty.id == "notice"
                    else f"see {licence.url}",
                )
            )
    return findings


def _lacking(
    duty: str, licence: Licence, texts: Mapping[str, str], everything: str, derived: bool
) -> str | None:
    """What is missing for a duty, None where nothing is."""
    if duty == "notice" and licence.notice and licence.notice not in everything:
        return f"no text file holds the line: {licence.notice}"
    if duty in ("agreement-copy", "licence-copy"):
        copies = [name for name in texts if re.match(r"(licen[cs]e|copying|terms|gemma_terms)", name, re.I)]
        if not copies and not any(
            licence.name.lower() in text.lower() and len(text) > 5000 for text in texts.values()
        ):
            return f"there is no copy of the {licence.name}"
    if duty == "modified-files" and derived and not _says_modified(texts):
        return "nothing says which files were modified, and by whom"
    if duty == "use-restrictions" and licence.policy and _bare(licence.policy) not in everything:
        return f"nothing points recipients to the use restrictions: {licence.policy}"
    if duty == "built-with" and "built with" not in everything.lower():
        return f"nothing shows what {licence.name} asks for"
    return None


def _says_modified(texts: Mapping[str, str]) -> bool:
    return any(name.upper().startswith("MODIFICATIONS") for name in texts) or any(
        re.search(r"\b(modified|modifications|changes made)\b", text, re.I)
        for name, text in texts.items()
        if name.lower().startswith(("readme", "notice"))
    )


def _bare(url: str) -> str:
    return url.removeprefix("https://").removeprefix("www.")


def read_texts(folder: Path) -> dict[str, str]:
    """The text files that stand at the top of a folder, by name."""
    names = re.compile(
        r"(notice|licen[cs]e|copying|terms|gemma_terms|modifications|readme|use_policy|prohibited\w*)[\w.-]*",
        re.I,
    )
    return {
        file.name: file.read_bytes()[:_MOST_TEXT].decode(errors="replace")
        for file in sorted(folder.iterdir())
        if file.is_file()
        and names.fullmatch(file.name)
        and file.suffix not in (".gguf", ".safetensors", ".json")
    }


def _finding(id: str, severity: Severity, where: str, what: str, consequence: str, cure: str) -> Finding:
    return Finding(id, "licence", severity, where, what, consequence, cure)
