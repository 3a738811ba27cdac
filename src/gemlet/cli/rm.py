"""`gemlet rm`: take a model off this machine, the download and what gemlet made of it; or clear the cache."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from gemlet.cli.terminal import print_json
from gemlet.errors import GemletError, InvalidRequestError

if TYPE_CHECKING:
    from gemlet.store.inventory import Entry

DESCRIPTION = (
    "Remove a model: its download and the packed weights together. A file of your own stays, only what\n"
    "gemlet made of it goes. --cache removes all that gemlet can make again: packed weights, read prompts."
)
EXAMPLES = (
    "gemlet rm gemma-3-1b-it",
    "gemlet rm ggml-org/gemma-3-1b-it-GGUF:Q4_K_M --yes",
    "gemlet rm --cache",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet rm`."""
    parser.add_argument("reference", nargs="?", metavar="REF", help="as gemlet ls names it")
    parser.add_argument("--cache", action="store_true", help="clear gemlet's own cache; downloads stay")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print one JSON document; asks nothing")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    if (parsed.reference is None) == (not parsed.cache):
        raise InvalidRequestError("name a model, or say --cache")
    document = _clear(parsed) if parsed.cache else _remove(parsed)
    if parsed.json:
        print_json(document)
    elif document["removed"]:
        print(f"{document['freed_bytes'] / 1e6:,.0f} MB freed")
    else:
        print("nothing was removed")
    return 0


def _remove(parsed: argparse.Namespace) -> dict[str, Any]:
    from gemlet.store.remove import find, is_download, remove

    entry = find(parsed.reference)
    _refuse_served(entry)
    parts = [f"the download of {entry.nbytes / 1e6:,.0f} MB ({entry.path})"] if is_download(entry) else []
    if entry.packed:
        parts.append(f"packed weights of {entry.packed_bytes / 1e6:,.0f} MB")
    if not parts:
        raise InvalidRequestError(f"{entry.path} is a file of your own, and gemlet keeps nothing of it")
    if not _agreed(parsed, f"Remove {' and '.join(parts)}?"):
        return {"removed": [], "freed_bytes": 0}
    return {"freed_bytes": remove(entry), "removed": [entry.reference]}


def _clear(parsed: argparse.Namespace) -> dict[str, Any]:
    from gemlet.store.inventory import cache_parts
    from gemlet.store.remove import clear_cache

    parts = cache_parts()
    listed = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in parts.items())
    if not parts or not _agreed(parsed, f"Remove {listed}?"):
        return {"removed": [], "freed_bytes": 0}
    return {"freed_bytes": clear_cache(), "removed": list(parts)}


def _agreed(parsed: argparse.Namespace, question: str) -> bool:
    if parsed.yes or parsed.json:
        return True
    if not sys.stdin.isatty():
        raise InvalidRequestError(f"{question} There is nobody to ask", hint="--yes removes without asking")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _refuse_served(entry: Entry) -> None:
    """GemletError while a server of this machine has been given the model."""
    from gemlet.cli.ps import running
    from gemlet.store.remove import find

    for server in running():
        for reference in server["references"]:
            try:
                served = find(reference.partition("+")[0])
            except GemletError:
                continue
            if served.path == entry.path:
                hint = "stop the server first; gemlet ps lists them"
                raise GemletError(f"{reference} is served at {server['address']}", hint=hint)
