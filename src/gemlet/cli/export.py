"""`gemlet export`: a model as GGUF or as a transformers folder, compared before it gets its name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gemlet.cli.flags import named_once
from gemlet.cli.progress import Progress
from gemlet.cli.terminal import is_screen, note, print_json
from gemlet.errors import InvalidRequestError
from gemlet.types import as_dict

if TYPE_CHECKING:
    from gemlet.convert.export import Exported, Order
    from gemlet.convert.logits import LogitCheck

DESCRIPTION = (
    "Write a model as a GGUF file (llama.cpp, Ollama) or as a transformers folder (transformers, vLLM). "
    "What is not changed is copied byte for byte; the result is read again, compared, and computed once "
    "by the program it is for where that is installed, before it appears under its name."
)
EXAMPLES = (
    "gemlet export --format gguf -o gemma.gguf",
    "gemlet export ~/models/gemma-3-1b-it --format gguf --type q8_0 -o gemma-q8.gguf",
    "gemlet export gemma-3-1b-it+~/adapters/support --format gguf --type q8_0 -o support.gguf",
    "gemlet export gemma-3-1b-it+~/adapters/support --adapter apart --format gguf -o base.gguf",
    "gemlet export ~/models/gemma.gguf --format transformers --type bf16 -o gemma-folder --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet export`."""
    parser.add_argument("reference", nargs="?", metavar="MODEL", help="model name, path or org/repo")
    parser.add_argument("-m", "--model", metavar="REF", help="the same, as a flag")
    parser.add_argument("--format", required=True, choices=("gguf", "transformers"), help="what to write")
    parser.add_argument(
        "--type",
        choices=("f32", "f16", "bf16", "q8_0", "q4_0"),
        help="type of the matrices; without it they stay as they are stored (bf16 in a transformers folder "
        "of a quantised model)",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="the file or folder to write")
    parser.add_argument(
        "--adapter",
        choices=("merge", "apart"),
        help="add the adapter of MODEL+ADAPTER to the weights (the default), or write it beside the model",
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--no-check", action="store_true", help="do not compare the result with the model")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    from gemlet.convert.export import export
    from gemlet.model.sources import open_source
    from gemlet.store.references import resolve

    found = resolve(named_once(parsed))
    for line in found.notices:
        note(line)
    if parsed.adapter is not None and found.adapter is None:
        raise InvalidRequestError("--adapter without an adapter", hint="name it: MODEL+ADAPTER")
    source = open_source(found.path)
    steps = _Steps(quiet=parsed.quiet)
    try:
        result = export(
            source, found.reference, _order(parsed), adapter=found.adapter, progress=steps, say=steps.say
        )
    finally:
        steps.close()
    if parsed.json:
        print_json(as_dict(result))
    else:
        print("\n".join(f"{name:<11}{text}" for name, text in rows(result)))
    return 0


def _order(parsed: argparse.Namespace) -> Order:
    from gemlet.convert.export import Order
    from gemlet.evaluate.transformers_logits import has_transformers, transformers_logits

    return Order(
        output=Path(parsed.output).expanduser(),
        format=parsed.format,
        type=parsed.type,
        apart=parsed.adapter == "apart",
        check=not parsed.no_check,
        force=parsed.force,
        transformers=transformers_logits if has_transformers() else None,
    )


class _Steps:
    """What is being done: a line that moves on a screen, one line a step elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._screen = is_screen(sys.stderr)
        self._progress = Progress("writing", sys.stderr)

    def __call__(self, done: int, total: int) -> None:
        if self._screen and not self._quiet:
            self._progress(done, total)

    def say(self, text: str) -> None:
        if not self._quiet:
            self.close()
            note(text)

    def close(self) -> None:
        self._progress.close()


def rows(result: Exported) -> list[tuple[str, str]]:
    """The result as lines for a person: a name and a text each."""
    kinds = ", ".join(f"{kind} ({count})" for kind, count in result.kinds.items())
    lines = [
        ("written", f"{result.path}: {result.nbytes / 1e6:,.1f} MB, {kinds}"),
        ("copied", f"{result.copied} tensors byte for byte"),
    ]
    lines += _changed(result)
    lines += [("corrected", line) for line in result.corrections]
    if not result.checked:
        lines.append(("check", "skipped"))
    elif result.logits is None:
        lines.append(
            ("check", f"every value; {result.format} logits were not computed: nothing here can do it")
        )
    else:
        lines.append(("check", f"every value; {_compared(result.logits)}"))
    if result.adapter_logits is not None:
        lines.append(("adapter", f"every value; {_compared(result.adapter_logits)}"))
    lines += [("beside", Path(path).name) for path in result.files[1:]]
    return lines + [("note", line) for line in result.warnings]


def _compared(logits: LogitCheck) -> str:
    return (
        f"{logits.program} on {logits.tokens} tokens: KL {logits.mean_kl:.2g} nats (limit {logits.limit:g}), "
        f"first choice equal at {100 * logits.top1:.0f} %"
    )


def _changed(result: Exported) -> list[tuple[str, str]]:
    if not result.errors or result.loss is None:
        return []
    worst = max(result.errors, key=lambda error: error.error)
    text = f"{len(result.errors)} tensors, {100 * result.loss:.2g} % off (root mean square, relative)"
    if worst.error:
        text += f"; most: {worst.name} {100 * worst.error:.2g} % as {worst.kind}"
    return [("changed", text)]
