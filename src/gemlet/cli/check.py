"""`gemlet check`: licence, origin, identity and card of a model, an adapter or a folder to be shipped."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemlet.cli.terminal import note, print_json, printable

if TYPE_CHECKING:
    from gemlet.provenance.check.findings import Finding
    from gemlet.provenance.check.report import Report

DESCRIPTION = (
    "Check a model, an adapter, an export or a folder about to be shipped: which terms apply and what they\n"
    "ask for, where files come from, whether tokenizer, template and constants are the original's, what the\n"
    "card says. It is no legal advice. Exit code 20 when an error is found (with --strict: or a warning)."
)
EXAMPLES = (
    "gemlet check",
    "gemlet check ~/models/gemma-3-1b-it-Q4_K_M.gguf",
    "gemlet check ./to-ship --fix",
    'gemlet check gemma-3-1b-it --use "A chatbot that answers questions about tax law"',
    "gemlet check ./to-ship --sbom model.cdx.json --strict",
    "gemlet check gemma-3-1b-it --json | jq '.findings[].id'",
)

EXIT_FOUND = 20
"""Apart from the codes of errors: the check itself went well."""

PARTS = ("licence", "provenance", "identity", "card")
WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet check`."""
    parser.add_argument(
        "reference", nargs="?", metavar="PATH|REF", help="a file, a folder, or a model's name"
    )
    parser.add_argument(
        "--use", metavar="TEXT", help="describe a product: which prohibited uses may it touch?"
    )
    parser.add_argument("--fix", action="store_true", help="write what a folder lacks to be passed on")
    parser.add_argument("--sbom", metavar="FILE", help="write a bill of materials (CycloneDX 1.6, JSON)")
    parser.add_argument("--sign", metavar="FILE", help="sign the manifest; a missing key FILE is made")
    parser.add_argument("--signed-by", metavar="KEY", help="the public key that must have signed it")
    parser.add_argument("--online", action="store_true", help="ask the hub about the repository too")
    parser.add_argument("--quick", action="store_true", help="hash no files and read no tensors")
    parser.add_argument("--strict", action="store_true", help="exit code 20 for warnings too")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    from gemlet.provenance.check.report import check, uses

    path = _path(parsed.reference)
    if parsed.sign is not None:
        _sign(path, Path(parsed.sign))
    report = check(path, quick=parsed.quick, signed_by=parsed.signed_by)
    written: list[str] = []
    if parsed.fix:
        from gemlet.provenance.check.fix import fix

        written = fix(report)
        report = check(path, quick=parsed.quick, signed_by=parsed.signed_by) if written else report
    document = report.document() | {"written": written}
    if parsed.use is not None:
        document["use"] = uses(parsed.use, report.terms)
    if parsed.online:
        document["hub"] = _hub(report)
    if parsed.sbom is not None:
        _write_sbom(parsed.sbom, report)
    if parsed.json:
        print_json(document)
    else:
        print(printable("\n".join(lines(report, document))))
    return EXIT_FOUND if report.errors or (parsed.strict and report.warnings) else 0


def _path(reference: str | None) -> Path:
    """The path that was given, or where a reference leads; of BASE+ADAPTER the adapter."""
    from gemlet.store.hub_cache import expanded
    from gemlet.store.references import resolve

    if reference is not None and expanded(reference).exists():
        return expanded(reference)
    found = resolve(reference)
    for line in found.notices:
        note(line)
    return found.path if found.adapter is None else found.adapter


def _sign(path: Path, key: Path) -> None:
    """Sign the manifest of a file or folder, whose files must be what it says."""
    from gemlet.errors import InvalidRequestError
    from gemlet.provenance.manifest import changed_files, create_key, read_manifest, write_manifest

    manifest = read_manifest(path)
    if manifest is None:
        hint = "gemlet quantize, export and tune write one"
        raise InvalidRequestError(f"{path}: there is no manifest to sign", hint=hint)
    if changed := changed_files(path, manifest):
        raise InvalidRequestError(f"{path}: the manifest does not describe it: {changed[0]}")
    if not key.exists():
        note(f"wrote a new private key to {key}; its public key is {create_key(key)}")
    write_manifest(path, manifest, key)


def _hub(report: Report) -> dict[str, Any]:
    from gemlet.errors import InvalidRequestError
    from gemlet.provenance.check.hub import ask_hub

    if not report.repositories:
        hint = "it must be in the Hugging Face cache, or say what it was made from"
        raise InvalidRequestError("no repository is known for these files", hint=hint)
    return ask_hub(report.repositories[0])


def _write_sbom(target: str, report: Report) -> None:
    from gemlet.formats.files import replaced_file
    from gemlet.provenance.check.sbom import bill_of_materials

    with replaced_file(Path(target)) as file:
        file.write((json.dumps(bill_of_materials(report), indent=2) + "\n").encode())
    note(f"wrote {target}")


def lines(report: Report, document: dict[str, Any]) -> Iterator[str]:
    """The report for a person."""
    yield f"{report.path}: {_count(report.errors, 'error')}, {_count(report.warnings, 'warning')}"
    for part in PARTS:
        yield ""
        yield part.upper()
        yield from _facts(part, report, document)
        for finding in report.findings:
            if finding.part == part:
                yield from _finding(finding)
    for name in document["written"]:
        yield f"\nwrote {name}" if name == document["written"][0] else f"wrote {name}"
    if "use" in document:
        yield from _uses(document["use"])
    if "hub" in document:
        yield from _signals(document["hub"])


def _finding(finding: Finding) -> Iterator[str]:
    yield f"  {finding.severity}: {finding.id}"
    for name, text in (
        ("where", finding.where),
        ("what", finding.what),
        ("then", finding.consequence),
        ("cure", finding.cure),
    ):
        yield from _wrapped(f"    {name:<6}", text)


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _facts(part: str, report: Report, document: dict[str, Any]) -> Iterator[str]:
    if part == "licence":
        for licence in report.terms:
            yield f"  under {licence.name}{f' ({licence.version})' if licence.version else ''}: {licence.url}"
            for duty in licence.duties:
                yield from _wrapped("    if you pass it on: ", f"{duty.text} [{duty.section}]")
    elif part == "provenance":
        for release in document["releases"]:
            who = "the publisher's own" if release["original"] else "known"
            yield f"  {release['file']}: {who}, of {release['repository']}"
        for step in document["lineage"]:
            if step.get("made_from"):
                yield f"  {step['repository']}: {step['relation']}, from {step['made_from']}"
        if any(step.get("made_from") for step in document["lineage"]):
            yield "  it inherits their terms, their tokenizer, and what their training data taught"
        if manifest := document["manifest"]:
            yield f"  manifest: made by gemlet {manifest['gemlet']} on {manifest['created']}"
            if signature := manifest["signature"]:
                yield f"  signature: {manifest['signature_state']}, key {signature['public_key']}"
    elif part == "identity":
        if published := document["published"]:
            yield f"  the shape of {published['model']}, {published['parameters']['published']:,} parameters"
            for name in ("tokenizer", "configuration"):
                differs = published[name]["differs"]
                yield f"  {name}: {'differs, see ' + ', '.join(differs) if differs else 'as published'}"
    else:
        yield from _card(document["card"])


def _card(card: dict[str, Any]) -> Iterator[str]:
    names = {
        "publisher": "publisher",
        "base_models": "made from",
        "licence": "licence",
        "tags": "tags",
        "papers": "arXiv",
        "training_data": "trained on",
    }
    for key, name in names.items():
        if value := card.get(key):
            yield from _wrapped(f"  {name:<11}", ", ".join(value) if isinstance(value, list) else str(value))
    if scores := card.get("scores"):
        shown = ", ".join(f"{score['name']} {score['value']:g}" for score in scores[:8])
        yield from _wrapped(f"  {'scores':<11}", f"{len(scores)} stated, not checked here: {shown}")


def _uses(use: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "USE (a match of words, no legal advice)"
    if not use["matches"]:
        yield "  no prohibited use of the register shares a word with the description"
    for match in use["matches"]:
        yield from _wrapped(f"  {match['use']['section']:<12}", match["use"]["text"])
        yield f"  {'':<12}because of: {', '.join(match['words'])}"
    if use["matches"]:
        yield f"  source: {use['source']} ({use['version']})"
    for limit in use["thresholds"]:
        found = [limit[key] for key in ("size", "revenue") if limit[key]]
        said = "; ".join(found) or "no limit on users or revenue is in the terms"
        yield from _wrapped("  ", f"{limit['licence']}: {said}")
        if limit["commercial"] is False:
            yield "    commercial use is not licensed"


def _signals(hub: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"HUB: {hub['repository']} (each a weak signal)"
    for signal in hub["signals"]:
        yield from _wrapped(f"  {signal['name']:<22}", f"{signal['value']} ({signal['remark']})")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
