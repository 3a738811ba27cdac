"""`gemlet quantize`: a smaller model, and what it lost."""

from __future__ import annotations

import argparse
import json
import sys
import time
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemlet.cli.flags import named_once
from gemlet.cli.terminal import EXIT_INTERRUPTED, is_screen, note, print_json
from gemlet.errors import InvalidRequestError
from gemlet.types import as_dict

if TYPE_CHECKING:
    from gemlet.convert.gguf_writer import Written
    from gemlet.convert.quantize_weights import Plan, Quantized
    from gemlet.evaluate.quality_report import QualityReport
    from gemlet.evaluate.texts import Documents
    from gemlet.model.sources import Source
    from gemlet.model.weights import Loaded
    from gemlet.text.tokenizer import Tokenizer

DESCRIPTION = """Write a model with 8-bit or 4-bit weights as a GGUF file, and measure what that loses.

Codes and scales of 4-bit matrices are searched so that the products with real inputs stay as they are; the
inputs are those of a text, gemlet's own or yours. Then both models read another text and answer questions."""
EXAMPLES = (
    "gemlet quantize gemma-3-1b-it --type q8_0 -o gemma-q8.gguf",
    "gemlet quantize ~/models/gemma-3-1b-it --type q4_0 -o gemma-q4.gguf --calibrate letters.jsonl",
    "gemlet quantize model.gguf --type q4_0 -o small.gguf --text held-out.txt --questions exam.jsonl",
    "gemlet quantize model.gguf --type q4_0 --method plain -o plain.gguf --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet quantize`."""
    parser.add_argument("reference", nargs="?", metavar="MODEL", help="model name, path or org/repo")
    parser.add_argument("-m", "--model", metavar="REF", help="the same, as a flag")
    parser.add_argument("--type", required=True, metavar="TYPE", help="q8_0 or q4_0, for the matrices")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", type=Path, help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    group = parser.add_argument_group("how")
    group.add_argument(
        "--method", default="search", metavar="M", help="of q4_0: search (the default), or plain rounding"
    )
    group.add_argument(
        "--calibrate", metavar="FILE", type=Path, help="text like what the model will read (.txt, .jsonl)"
    )
    group.add_argument(
        "--calibration-tokens", type=int, default=8192, metavar="N", help="read of it, at most (8192)"
    )
    group.add_argument(
        "--embedding", default="q8_0", metavar="TYPE", help="of the embedding: q8_0 (the default), q4_0, keep"
    )
    group = parser.add_argument_group("what to measure on")
    group.add_argument("--text", metavar="FILE", type=Path, help="a text that is not the calibration's")
    group.add_argument("--tokens", type=int, default=4096, metavar="N", help="read of it, at most (4096)")
    group.add_argument(
        "--questions", metavar="FILE", type=Path, help="multiple choice: JSONL of prompt, choices, answer"
    )
    group.add_argument("--no-measure", action="store_true", help="only write the file")
    group = parser.add_argument_group("what to print")
    group.add_argument("--json", action="store_true", help="print one JSON document")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress and notices on standard error")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    from gemlet.convert.gguf_writer import gguf_package, refuse_source, write_gguf
    from gemlet.convert.quantize_weights import plan, quantize
    from gemlet.convert.staging import check_target
    from gemlet.model.sources import open_source

    _check(parsed)
    gguf_package()
    found = _resolve(parsed)
    source = open_source(found)
    decided = plan(source, parsed.type, parsed.method, parsed.embedding)
    refuse_source(parsed.output, source)
    check_target(parsed.output, _bytes(source, decided), force=parsed.force)
    job = _Job(parsed, source)
    for line in warnings(source, decided, parsed):
        note(line)
    try:
        quantized = quantize(source, job.loaded.weights, decided, job.calibration_ids(decided), job.steps)
        written = write_gguf(parsed.output, source, quantized.tensors, force=parsed.force)
        beside = _papers(job, written)
        report, stopped = _measured(job)
    finally:
        job.steps.close()
    document = _document(job, decided, quantized, written, report) | {"measurement_interrupted": stopped}
    path = parsed.output.with_name(parsed.output.name + ".quantize.json")
    _write(document, path)
    if parsed.json:
        print_json(document)
    else:
        print("\n".join(f"{name:<13}{text}" for name, text in rows(source, quantized, written, report)))
    if not parsed.quiet:
        note(f"beside it: {', '.join(file.name for file in beside)}")
        note(f"every tensor's error and every document's loss: {path}")
    if stopped:
        note(f"{parsed.output} is whole, its loss was not measured: the same command with --force does it")
        return EXIT_INTERRUPTED
    return 0


def _measured(job: _Job) -> tuple[QualityReport | None, bool]:
    """The loss, and whether Ctrl-C ended its measurement: the file was written before and stays."""
    if job.parsed.no_measure:
        return None, False
    try:
        return job.measure(), False
    except KeyboardInterrupt:
        return None, True


def _check(parsed: argparse.Namespace) -> None:
    for name in ("tokens", "calibration_tokens"):
        if getattr(parsed, name) < 64:
            raise InvalidRequestError(f"--{name.replace('_', '-')} must be at least 64")
    same = parsed.calibrate is not None and parsed.text is not None
    if same and parsed.calibrate.exists() and parsed.text.exists() and parsed.calibrate.samefile(parsed.text):
        hint = "what the search was fitted to looks better than it is: measure on another text"
        raise InvalidRequestError("--calibrate and --text are the same file", hint=hint)


def _resolve(parsed: argparse.Namespace) -> Path:
    from gemlet.store.references import resolve

    found = resolve(named_once(parsed))
    if found.adapter is not None:
        hint = "merge it first: gemlet export writes a model with its adapter"
        raise InvalidRequestError("a model with an adapter cannot be quantised", hint=hint)
    for line in found.notices:
        note(line)
    return Path(found.path)


def _bytes(source: Source, decided: Plan) -> int:
    """Of the file, nearly: its vectors and vocabulary are small beside the matrices."""
    from gemlet.formats.tensors import KINDS

    total = 0
    for name, tensor in source.tensors.items():
        kind = KINDS[decided.kinds.get(name, "F32")]
        total += prod(tensor.shape) // kind.block * kind.nbytes
    return total


def warnings(source: Source, decided: Plan, parsed: argparse.Namespace) -> list[str]:
    """What a person should know before the work begins."""
    from gemlet.formats.tensors import KINDS

    lines = []
    stored = sorted({source.tensors[name].kind for name in decided.kinds})
    quantised = [kind for kind in stored if not KINDS[kind].is_float]
    if any(source.tensors[name].kind != kind for name, kind in decided.kinds.items()) and quantised:
        lines.append(
            f"the source is quantised already ({', '.join(quantised)}): its values are taken as they are, "
            "and what they lost before is not counted"
        )
    if decided.on_grid:
        lines.append(
            f"{len(decided.on_grid)} matrices lie on the Q4_0 grid, as weights trained for it do: they are "
            "rounded plainly, since a search on a text could only move them off"
        )
        if parsed.calibrate is not None and not decided.searched:
            lines.append("--calibrate changes nothing: there is no matrix to search")
    if decided.kinds and parsed.type == "q4_0" and parsed.method == "plain" and not decided.on_grid:
        lines.append(
            "plain rounding to 4 bits costs much where weights were not trained for it (Gemma 3 1B lost about"
            " 18 % perplexity); --method search loses less"
        )
    return lines


class _Steps:
    """What is done and how long it will take: a line that moves on a screen, one line a step elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._screen = quiet, is_screen(sys.stderr)
        self._what, self._began = "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._quiet:
            return
        kind = "quantising" if "." in what or "_" in what else what
        if kind != self._what:
            self._what, self._began = kind, time.monotonic()
            if not self._screen:
                note(kind)
        if self._screen:
            left = (time.monotonic() - self._began) * (total - done) / max(done, 1)
            text = f"{kind} {100 * done // max(total, 1):3d} %, {left:.0f} s left"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._screen and not self._quiet and self._what:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class _Job:
    """The source with its weights, and the texts."""

    def __init__(self, parsed: argparse.Namespace, source: Source) -> None:
        from gemlet.evaluate.choices import QUESTIONS, read_questions
        from gemlet.evaluate.texts import HELD_OUT, read_documents
        from gemlet.model.weights import load
        from gemlet.store.load import SAMPLES
        from gemlet.store.settings import cache_dir
        from gemlet.text.tokenizer import Tokenizer

        self.parsed, self.source = parsed, source
        self.steps = _Steps(parsed.quiet)
        self.tokenizer: Tokenizer = Tokenizer.from_source(source.facts.tokenizer, cache_dir())
        self.calibration: Documents = read_documents(
            parsed.calibrate or SAMPLES, self.tokenizer, parsed.calibration_tokens
        )
        self.text: Documents = read_documents(parsed.text or HELD_OUT, self.tokenizer, parsed.tokens)
        self.questions = read_questions(parsed.questions or QUESTIONS)
        for name, documents in (("--calibration-tokens", self.calibration), ("--tokens", self.text)):
            if documents.left_out and not parsed.quiet:
                note(f"{documents.name}: {documents.left_out} tokens beyond {name} are left out")
        self.loaded: Loaded = load(source.facts.path, "stored", cache_dir=None)

    def calibration_ids(self, decided: Plan) -> tuple[tuple[int, ...], ...]:
        return self.calibration.ids if decided.searched else ()

    def measure(self) -> QualityReport:
        from gemlet.evaluate.quality_report import measure
        from gemlet.model.weights import load

        again = load(self.parsed.output, "stored", cache_dir=None)
        return measure(self.loaded, again, self.tokenizer, self.text, self.questions, self.steps)


def _document(
    job: _Job, decided: Plan, quantized: Quantized, written: Written, report: QualityReport | None
) -> dict[str, Any]:
    from gemlet.evaluate.record import provenance

    used: dict[str, Any] | None = None
    if decided.searched:
        used = {"name": job.calibration.name, "sha256": job.calibration.sha256}
        used |= {"tokens": job.calibration.tokens}
    files = [Path(written.path)]
    return {
        **provenance("quantize", files),
        "source": {"path": job.source.facts.path, "sha256": job.loaded.weights.sha256},
        "type": job.parsed.type,
        "method": job.parsed.method,
        "embedding": job.parsed.embedding,
        "calibration": used,
        "on_grid": list(decided.on_grid),
        "warnings": warnings(job.source, decided, job.parsed),
        "tensors": [as_dict(error) for error in quantized.errors],
        "quality": None if report is None else report.document(),
    }


def _write(document: dict[str, Any], path: Path) -> None:
    from gemlet.formats.files import replaced_file

    with replaced_file(path) as file:
        file.write((json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def _papers(job: _Job, written: Written) -> list[Path]:
    """Write the terms of the weights, and how the file was made, beside it; where."""
    from gemlet.convert.terms import Origin, terms_files, write_beside
    from gemlet.formats.files import file_sha256
    from gemlet.provenance.manifest import Input, derive, write_manifest

    facts, name = job.source.facts, Path(job.source.facts.path).name
    inputs = [Input("source", name, sha256=job.loaded.weights.sha256, licence=facts.licence)]
    if job.parsed.calibrate is not None:
        text = job.parsed.calibrate
        inputs.append(Input("data", text.name, sha256=file_sha256(text)))
    changes = [f"matrices quantised to {job.parsed.type} ({job.parsed.method})", *written.corrections]
    texts = terms_files(job.source, Origin(name, job.loaded.weights.sha256), changes)
    derivation = derive(
        written.path, inputs, changes=changes, quantisation=job.parsed.type, licence=facts.licence
    )
    return [*write_beside(Path(written.path), texts), write_manifest(written.path, derivation)]


def rows(
    source: Source, quantized: Quantized, written: Written, report: QualityReport | None
) -> list[tuple[str, str]]:
    """The result as lines for a person: a name and a text each."""
    before = sum(tensor.data.nbytes for tensor in source.tensors.values())
    lines = [
        ("written", f"{written.path}: {written.nbytes / 1e6:,.1f} MB (tensors were {before / 1e6:,.1f} MB)")
    ]
    by_part: dict[str, list[Any]] = {}
    for error in quantized.errors:
        by_part.setdefault(f"{error.name.rsplit('.', 1)[-1]} {error.kind}", []).append(error)
    for part, errors in by_part.items():
        text = f"{len(errors):3d}  error {_percent(errors, 'error')}"
        if errors[0].output_error is not None:
            text += f"; of products {_percent(errors, 'output_error')}"
            text += f", plain rounding {_percent(errors, 'plain_output_error')}"
        lines.append((part.split()[0], f"{part.split()[1]} {text}"))
    return lines + ([] if report is None else report.lines())


def _percent(errors: list[Any], name: str) -> str:
    """The mean over tensors, in per cent."""
    return f"{100 * sum(getattr(error, name) for error in errors) / len(errors):.2f} %"
