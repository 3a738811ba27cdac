"""`gemlet pull`: download a model, after its terms are accepted, and check what came."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from gemlet.cli.progress import Progress
from gemlet.cli.terminal import note, print_json, printable

if TYPE_CHECKING:
    from gemlet.provenance.licences import Licence
    from gemlet.store.pull import Pulled

DESCRIPTION = (
    "Download a model into the Hugging Face cache and check its hashes. What was cut off is gone on with.\n"
    "The terms of the weights are shown before, and asked for once."
)
EXAMPLES = (
    "gemlet pull gemma-3-1b-it",
    "gemlet pull ggml-org/gemma-3-1b-it-GGUF:Q4_K_M",
    "gemlet pull google/gemma-3-1b-it@dcc83ea841ab6100d6b47a070329e1ba4cf78752",
    "gemlet pull smollm2-135m-instruct --json",
    "HF_TOKEN=hf_… gemlet pull gemma-3-1b-it-qat --accept-licence",
)

VERDICTS = {
    "known": "the published file, by its hash",
    "hub": "as the hub has it, by its hash",
    "unchecked": "as it lies here; nothing says its hash",
    "other": "as the hub has it; not the published file that gemlet knows",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet pull`."""
    parser.add_argument(
        "reference", metavar="REF", help="a known name, or org/repo[:file-or-quant][@revision]"
    )
    parser.add_argument("--accept-licence", action="store_true", help="accept the terms without being asked")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    from gemlet.store.pull import pull

    progress = Progress("downloading", sys.stderr) if sys.stderr.isatty() and not parsed.json else None

    def consent(licence: Licence, repository: str) -> bool:
        return parsed.accept_licence or _ask(licence, repository)

    try:
        pulled = pull(parsed.reference, consent=consent, progress=progress)
    except KeyboardInterrupt:
        note("stopped; what has come is kept: run the same command to go on")
        raise
    finally:
        if progress is not None:
            progress.close()
    if parsed.json:
        print_json({"pulled": [asdict(one) for one in pulled]})
    else:
        for one in pulled:
            print(printable("\n".join(lines(one))))
    return 0


def lines(pulled: Pulled) -> list[str]:
    """What came, for a person."""
    width = max((len(file.name) for file in pulled.files), default=0)
    files = [
        f"  {file.name:<{width}}  {file.nbytes / 1e6:>9,.1f} MB  {VERDICTS[file.verdict]}"
        for file in pulled.files
    ]
    came = f"{pulled.fetched_bytes / 1e6:,.1f} MB came" if pulled.fetched_bytes else "it was here already"
    came = came if pulled.asked else "it is all here (the network is switched off: the hub was not asked)"
    return [
        f"{pulled.repository} at {pulled.commit[:12]}: {came}",
        *files,
        f"in {pulled.path}",
        f'next: gemlet run -m {pulled.reference} "Why is the sky blue?"',
    ]


def _ask(licence: Licence, repository: str) -> bool:
    """Show what the terms say, and ask. Without a terminal nobody can say yes."""
    version = f" ({licence.version})" if licence.version else ""
    shown = [
        f"{repository} is under the {licence.name}{version}:",
        *(f"  - {line}" for line in licence.summary),
    ]
    shown.append(f"  The terms themselves: {licence.url}")
    if licence.policy:
        shown.append(f"  Prohibited uses: {licence.policy}")
    print(printable("\n".join(shown)), file=sys.stderr)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print("Do you accept them? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
