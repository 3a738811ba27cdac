"""`gemlet bench speed`: how fast a model is here, beside the machine's limits, a peer, an earlier result."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from gemlet.cli.progress_line import ProgressLine
from gemlet.cli.terminal import note, print_json
from gemlet.errors import InvalidRequestError

DESCRIPTION = """Measure prefill, decoding, streams, the first token, the start of a process, and memory.

Every stage is measured once a round, in fresh processes, beside the machine's own limits: bytes read from
memory, and products of 8-bit integers and of floats. No text is made; the prompts are random tokens."""
EXAMPLES = (
    "gemlet bench speed",
    "gemlet bench speed -m gemma-3-1b-it --quick",
    "gemlet bench speed -m model.gguf --against llama.cpp -o results/ --plot speed.png",
    "gemlet bench speed --save-baseline",
    "gemlet bench speed --compare",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet bench speed`."""
    group = parser.add_argument_group("what to measure")
    group.add_argument(
        "-m", "--model", metavar="REF", help="model name, path or org/repo (default: gemlet config)"
    )
    group.add_argument(
        "--against", metavar="PEER", help="measure llama.cpp in turn, on the same file and threads"
    )
    group.add_argument("--threads", type=int, metavar="N", help="threads (default: as models are run here)")
    group.add_argument("--rounds", type=int, metavar="N", help="rounds (default: 7, with --quick 3)")
    group.add_argument(
        "--tokens", type=int, metavar="N", help="tokens decoded in a measurement (default: 32)"
    )
    group.add_argument("--quick", action="store_true", help="the main stages only, in under a minute")
    group = parser.add_argument_group("what to do with the result")
    group.add_argument("-o", "--output", metavar="PATH", help="write it: a file, or a folder to name it in")
    group.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw it: .png, .svg or .pdf ('bench' extra)"
    )
    group.add_argument(
        "--save-baseline", nargs="?", const=Path(), type=Path, metavar="FILE", help="keep it for --compare"
    )
    group.add_argument(
        "--compare",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="FILE",
        help="say what moved since the baseline",
    )
    group.add_argument("--json", action="store_true", help="print one JSON document")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress and notices on standard error")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    _check(parsed)
    from gemlet.evaluate.speed import measure, plan_speed
    from gemlet.evaluate.speed_compare import compare, read_result
    from gemlet.evaluate.speed_plot import check_plot, plot
    from gemlet.store.references import resolve
    from gemlet.store.settings import read_settings

    found = resolve(parsed.model)
    plan = plan_speed(
        found.path,
        threads=parsed.threads or cast("int | None", read_settings()["threads"].value),
        rounds=parsed.rounds,
        tokens=parsed.tokens,
        against=parsed.against,
        quick=parsed.quick,
    )
    # Whatever cannot be read or written must be known before the minutes of measuring.
    old = None if parsed.compare is None else read_result(_recorded(parsed, found.path))
    if parsed.plot is not None:
        check_plot(parsed.plot)
    if not parsed.quiet:
        for line in found.notices:
            note(line)
        note(f"{plan.threads} threads: {plan.why_threads}")
    progress = ProgressLine(parsed.quiet)
    try:
        result = measure(plan, progress)
    finally:
        progress.close()
    if old is not None:
        result["comparison"] = compare(old, result)
    written = [_write(result, path) for path in _targets(parsed, result, found.path)]
    if parsed.plot is not None:
        plot(result, parsed.plot)
        written.append(parsed.plot)
    _say(parsed, result, written)
    return 0


def _check(parsed: argparse.Namespace) -> None:
    for name in ("threads", "rounds", "tokens"):
        value = getattr(parsed, name)
        if value is not None and not 1 <= value <= 256:
            raise InvalidRequestError(f"--{name} must be from 1 to 256, not {value}")


def _baseline(path: Path, model: Path, quick: bool) -> Path:
    """Where a baseline is kept; without a file named, one for each model, in the data folder."""
    if path != Path():
        return path
    from gemlet.store.settings import data_dir

    return data_dir() / "baselines" / f"speed-{'quick-' if quick else ''}{_slug(model)}.json"


def _recorded(parsed: argparse.Namespace, model: Path) -> Path:
    path = _baseline(parsed.compare, model, parsed.quick)
    if not path.is_file():
        hint = "record one first: the same command with --save-baseline"
        raise InvalidRequestError(f"there is no baseline {path}", hint=hint)
    return path


def _targets(parsed: argparse.Namespace, result: Mapping[str, Any], model: Path) -> list[Path]:
    targets = []
    if parsed.output is not None:
        output = Path(parsed.output)
        stamp = re.sub(r"[-:]", "", result["date"][:19]).replace("T", "-")
        folder = output.is_dir() or parsed.output.endswith("/")
        targets.append(output / f"speed-{_slug(model)}-{stamp}.json" if folder else output)
    if parsed.save_baseline is not None:
        targets.append(_baseline(parsed.save_baseline, model, parsed.quick))
    return targets


def _slug(model: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", model.name.lower().removesuffix(".gguf")).strip("-")


def _write(result: Mapping[str, Any], path: Path) -> Path:
    from gemlet.formats.files import replaced_file

    with replaced_file(path) as file:
        file.write((json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def _say(parsed: argparse.Namespace, result: Mapping[str, Any], written: list[Path]) -> None:
    from gemlet.evaluate.speed_compare import lines
    from gemlet.evaluate.speed_result import table

    if parsed.json:
        print_json(result)
    else:
        print("\n".join(table(result)))
        if "comparison" in result:
            print("\nsince the baseline:\n" + "\n".join(lines(result["comparison"])))
    for sentence in result["disturbances"]:  # they make figures wrong: said also when quiet
        note(f"the measurement was disturbed: {sentence}")
    if not parsed.quiet:
        for path in written:
            note(f"written to {path}")
