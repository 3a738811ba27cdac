"""Memory of a model on gemlet: resident after loading and after a long prompt, and the price of its KV state.

Usage: memory.py MODEL.gguf [--context 32768] [--fill N]     --fill: positions really computed (default 2048)
Writes benchmarks/results/memory-*.json. Linux only. The weights are packed first; measured is a second
process that finds them packed, as every later start does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from engines import random_ids
from gemlet.model.decoder import Decoder
from gemlet.model.sources import open_source
from gemlet.model.weights import load_weights
from gemlet.ops.batch import Batch
from gemlet.store.settings import cache_dir
from results_file import write_result

MIB = 1 << 20
KV_LIMIT = 150 * MIB
"""For 32,768 positions in the 1B shape."""
OVERHEAD_LIMIT = 150 * MIB
"""Resident beyond the file and the KV state held."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--fill", type=int, default=2048)
    parser.add_argument("--packed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.packed:
        load_weights(open_source(args.model), cache_dir=cache_dir())
        sys.exit(subprocess.run([sys.executable, *sys.argv, "--packed"]).returncode)

    rows = measure(args.model, args.context, args.fill)
    settings = {"model": args.model.name, "context": args.context, "fill": args.fill}
    path = write_result("memory", rows, models=[args.model], settings=settings)
    for row in rows:
        print(
            f"{row['what']}: {row['MiB']:.1f} MiB" + (f", limit {row['limit']:.1f}" if row["limit"] else "")
        )
    print(path)


def measure(model: Path, context: int, fill: int) -> list[dict[str, Any]]:
    before = resident()
    source = open_source(model)
    decoder = Decoder(source.config, load_weights(source, cache_dir=cache_dir()))
    loaded = resident()
    state = decoder.new_state()
    ids = random_ids(fill, seed=1)
    for start in range(0, fill, decoder.max_rows):
        decoder.step(Batch.of([(state, ids[start : start + decoder.max_rows])]))
    used, held = resident(), state.nbytes
    price, file = decoder.kv_bytes(context), model.stat().st_size
    decoder.close()

    def row(what: str, size: int, limit: int | None = None) -> dict[str, Any]:
        return {"what": what, "MiB": size / MIB, "limit": None if limit is None else limit / MIB}

    return [
        row("model file", file),
        row("Python with gemlet imported", before),
        row("resident after loading", loaded, file + OVERHEAD_LIMIT),
        row(f"resident after {fill} tokens", used, file + held + OVERHEAD_LIMIT),
        row(f"KV state of {fill} tokens", held),
        row(
            f"KV state of {context} tokens, computed beforehand",
            price,
            KV_LIMIT if context == 32768 else None,
        ),
    ]


def resident() -> int:
    """Bytes of this process now in memory, mapped files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell a process's resident set")


if __name__ == "__main__":
    main()
