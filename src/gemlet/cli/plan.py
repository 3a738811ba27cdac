"""`gemlet plan`: memory, speed and cost of a model here or on a machine described, before it is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemlet.cli.progress_line import ProgressLine
from gemlet.cli.terminal import note, print_json
from gemlet.errors import InvalidRequestError, ModelNotFoundError

if TYPE_CHECKING:
    from gemlet.plan.efficiency import Efficiency
    from gemlet.plan.fit import Machine, Wanted
    from gemlet.plan.prices import Prices
    from gemlet.plan.subject import Subject

DESCRIPTION = """Forecast memory, speed and cost of a model, from its header; no weights are loaded.

Speed follows from what this machine does in two seconds of measuring, or from --bandwidth and --cores, and
from how well the engine was measured to use it. A known name needs no download."""
EXAMPLES = (
    "gemlet plan",
    "gemlet plan -m gemma-3-1b-it --weights int4 --context 8192 --streams 8",
    "gemlet plan -m gemma-3-1b-it --ram 8 --bandwidth 40 --cores 4",
    "gemlet plan -m model.gguf --measure",
    "gemlet plan --prices-template > prices.toml",
    "gemlet plan -m model.gguf --prices prices.toml --json",
)

DEFAULT_CONTEXT = 4096
PROBE_S = 1.8
ROUNDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet plan`."""
    group = parser.add_argument_group("what is planned")
    group.add_argument(
        "-m",
        "--model",
        metavar="REF",
        help="name, path, org/repo or config.json (default: gemlet config)",
    )
    group.add_argument(
        "--weights", default="auto", metavar="T", help="auto, stored, bf16, int8 or int4 (default: auto)"
    )
    group.add_argument(
        "--context", type=int, metavar="N", help=f"tokens of each conversation (default: {DEFAULT_CONTEXT})"
    )
    group.add_argument("--streams", type=int, default=1, metavar="N", help="how many at once (default: 1)")
    group.add_argument(
        "--answer",
        type=int,
        metavar="N",
        help="of these, in an answer (default: 256, or a quarter)",
    )
    group = parser.add_argument_group("the machine, where it is another one")
    group.add_argument("--ram", type=float, metavar="GB", help="memory that may be used")
    group.add_argument("--bandwidth", type=float, metavar="GBS", help="GB/s read from memory by all cores")
    group.add_argument("--cores", type=int, metavar="N", help="physical cores")
    group.add_argument(
        "--instruction-set",
        default="avx2",
        metavar="NAME",
        help="avx512, avx2 (default), portable",
    )
    group = parser.add_argument_group("what to do with it")
    group.add_argument("--prices", type=Path, metavar="FILE", help="table of prices: costs and break-even")
    group.add_argument("--prices-template", action="store_true", help="print such a table to fill in")
    group.add_argument("--measure", action="store_true", help="run it: forecast beside measurement")
    group.add_argument("--threads", type=int, metavar="N", help="threads here (default: as models are run)")
    group.add_argument("--json", action="store_true", help="print one JSON document")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress and notices on standard error")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    from gemlet.plan.efficiency import measured
    from gemlet.plan.fit import Wanted
    from gemlet.plan.prices import TEMPLATE, read_prices

    if parsed.prices_template:
        print(TEMPLATE.read_text(encoding="utf-8"), end="")
        return 0
    _check(parsed)
    prices = None if parsed.prices is None else read_prices(parsed.prices)
    subject = _subject(parsed)
    context = parsed.context or min(DEFAULT_CONTEXT, subject.config.context_length)
    wanted = Wanted.of(subject, context, parsed.streams, parsed.answer)
    if parsed.measure and subject.path is None:
        raise InvalidRequestError(f"{subject.name} is not on this machine: there is nothing to measure")
    efficiency = measured()
    progress = ProgressLine(parsed.quiet)
    try:
        machine = _machine(parsed, efficiency, progress)
        document = describe_plan(parsed.weights, subject, machine, wanted, efficiency, prices)
        if parsed.measure:
            _add_measured(document, parsed.weights, subject, machine, wanted, efficiency, progress)
    finally:
        progress.close()
    if parsed.json:
        print_json(document)
    else:
        from gemlet.cli.plan_table import table

        print("\n".join(table(document)))
    return 0


def _check(parsed: argparse.Namespace) -> None:
    if (parsed.bandwidth is None) != (parsed.cores is None):
        missing = "--bandwidth" if parsed.bandwidth is None else "--cores"
        raise InvalidRequestError(f"--bandwidth and --cores describe a machine: {missing} is missing")
    if parsed.ram is not None and not 0 < parsed.ram < 1e6:
        raise InvalidRequestError(f"--ram must be a number of GB above 0, not {parsed.ram:g}")
    if parsed.measure and (parsed.bandwidth is not None or parsed.ram is not None):
        raise InvalidRequestError("--measure runs the model here: leave out --ram, --bandwidth and --cores")
    for name, least, most in (("context", 1, 1 << 24), ("threads", 1, 256)):
        value = getattr(parsed, name)
        if value is not None and not least <= value <= most:
            raise InvalidRequestError(f"--{name} must be from {least} to {most}, not {value}")


def _subject(parsed: argparse.Namespace) -> Subject:
    """The model's file where it is here, else the shape that is known by its name."""
    from gemlet.plan.subject import KNOWN, from_config, from_file, from_name
    from gemlet.store.references import resolve

    if parsed.model is not None and parsed.model.endswith(".json"):
        return from_config(Path(parsed.model), parsed.weights)
    try:
        found = resolve(parsed.model)
    except ModelNotFoundError:
        if parsed.model not in KNOWN:
            raise
        if not parsed.quiet:
            note(f"{parsed.model} is not on this machine: planned from its known shape")
        return from_name(parsed.model, parsed.weights)
    for line in () if parsed.quiet else found.notices:
        note(line)
    if found.adapter is not None and not parsed.quiet:
        note("the adapter is not counted: it is small beside the model")
    return from_file(found.path, parsed.weights)


def _machine(parsed: argparse.Namespace, efficiency: Efficiency, progress: ProgressLine) -> Machine:
    from gemlet import machine
    from gemlet.ops.limits import measure_limits
    from gemlet.ops.native import choose_instruction_set
    from gemlet.plan.fit import GB, Machine, described

    if parsed.bandwidth is not None:
        return described(
            efficiency,
            bandwidth=parsed.bandwidth,
            cores=parsed.cores,
            memory=parsed.ram,
            instruction_set=parsed.instruction_set,
        )
    threads = parsed.threads or machine.threads().count
    progress("measuring this machine: about 2 s")
    rates = measure_limits(threads, seconds=PROBE_S)
    memory = machine.memory().available if parsed.ram is None else round(parsed.ram * GB)
    return Machine(rates, threads, choose_instruction_set(), memory, False)


def describe_plan(
    weights: str,
    subject: Subject,
    machine: Machine,
    wanted: Wanted,
    efficiency: Efficiency,
    prices: Prices | None = None,
) -> dict[str, Any]:
    """The plan as a JSON-ready document."""
    from dataclasses import asdict

    from gemlet.plan import fit

    sketch = _sketch()
    found = fit.forecast(subject, machine.rates, wanted, efficiency, sketch=sketch)
    document: dict[str, Any] = {
        "model": subject.name,
        "path": None if subject.path is None else str(subject.path),
        "weights": {"asked": weights, "types": subject.bytes_by_type},
        "parameters": sum(subject.config.parameter_counts().values()),
        "wanted": asdict(wanted) | {"prompt": wanted.prompt},
        "machine": asdict(machine),
        "forecast": fit.describe(found, efficiency),
        "step_seconds": fit.step_seconds(subject, machine.rates, efficiency),
        "fit": fit.describe_fit(subject, weights, wanted, found, machine.memory, efficiency),
        "rule_of_thumb_bytes": fit.rule_of_thumb(subject),
        "constants": efficiency.source,
    }
    if prices is not None:
        document["cost"] = fit.describe_cost(prices, found)
    return document


def _sketch() -> bool:
    from gemlet.store.settings import read_settings

    return bool(read_settings()["head_sketch"].value)


def _add_measured(
    document: dict[str, Any],
    weights: str,
    subject: Subject,
    machine: Machine,
    wanted: Wanted,
    efficiency: Efficiency,
    progress: ProgressLine,
) -> None:
    """Run the model: what is measured, and forecasts at the limits of the same moments, medians of both."""
    from gemlet.evaluate.planned import Load, measure_memory, measure_rounds
    from gemlet.plan.compare import compare

    assert subject.path is not None
    counts = sorted({1, *wanted.counts})
    load = Load(subject.path, weights, machine.threads, subject.config.vocab_size, wanted.prompt, counts)
    progress("measuring memory")
    memory = measure_memory(load)[wanted.streams]
    rounds = list(measure_rounds(load, ROUNDS, progress))
    document.update(compare(subject, wanted, efficiency, rounds_of(rounds), memory["resident"], _sketch()))


def rounds_of(rounds: Any) -> list[dict[str, tuple[float, Any]]]:
    """Measured rounds as the comparison takes them: by what was measured, seconds and limits."""
    return [{one.what: (one.seconds, one.limits) for one in found} for found in rounds]
