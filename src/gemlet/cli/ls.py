"""`gemlet ls`: the models on this machine, and what gemlet keeps of them."""

from __future__ import annotations

import argparse
import time
from typing import Any

from gemlet.cli.terminal import print_json, printable

DESCRIPTION = (
    "List the models on this machine: downloads in the Hugging Face cache, the embedded model, and files\n"
    "that were opened before; with the size of each, and of the packed weights that gemlet made of it."
)
EXAMPLES = ("gemlet ls", "gemlet ls --json | jq '.models[].reference'")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet ls`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    document = listing()
    if parsed.json:
        print_json(document)
    else:
        print(printable("\n".join(table(document, time.time()))))
    return 0


def listing() -> dict[str, Any]:
    """The models, and the parts of the cache, in bytes."""
    from gemlet.store.inventory import cache_parts, entries, orphans
    from gemlet.store.settings import cache_dir, read_settings

    models = [
        {
            "reference": entry.reference,
            "names": list(entry.names),
            "path": str(entry.path),
            "kind": entry.kind,
            "revision": entry.revision,
            "complete": entry.complete,
            "bytes": entry.nbytes,
            "packed_bytes": entry.packed_bytes,
            "packed": [str(file.path) for file in entry.packed],
            "used": entry.used,
        }
        for entry in entries()
    ]
    cache = {"path": str(cache_dir()), "parts": cache_parts(), "limit": read_settings()["cache_limit"].value}
    gone = [{"path": str(file.path), "source": file.source, "bytes": file.nbytes} for file in orphans()]
    return {"models": models, "orphans": gone, "cache": cache}


def table(document: dict[str, Any], now: float) -> list[str]:
    """A line for each model under a heading, and one for the cache."""
    rows = [("MODEL", "KIND", "REVISION", "DOWNLOAD", "PACKED", "USED")]
    for model in document["models"]:
        name = f"{model['reference']} ({model['names'][0]})" if model["names"] else model["reference"]
        rows.append(
            (
                name if model["complete"] else f"{name}, not complete",
                model["kind"],
                (model["revision"] or "-")[:12],
                _megabytes(model["bytes"]),
                _megabytes(model["packed_bytes"]) if model["packed_bytes"] else "-",
                "-" if model["used"] is None else _days(now - model["used"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if len(rows) == 1:
        lines = ["no models yet: gemlet pull gemma-3-1b-it"]
    cache = document["cache"]
    if cache["parts"]:
        parts = ", ".join(f"{name} {_megabytes(size)}" for name, size in cache["parts"].items())
        total = _megabytes(sum(cache["parts"].values()))
        lines += [
            "",
            f"cache {total} of at most {_megabytes(cache['limit'])}: {parts}",
            f"  in {cache['path']}",
        ]
    if document["orphans"]:
        size = _megabytes(sum(file["bytes"] for file in document["orphans"]))
        lines.append(f"{size} are of models that are gone: gemlet rm --cache removes them with the rest")
    return lines


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _days(seconds: float) -> str:
    days = int(seconds // 86400)
    return "today" if days < 1 else "yesterday" if days == 1 else f"{days} days ago"
