"""`gemlet replay`: recorded traffic against another model or endpoint, and what changes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemlet.cli.flags import add_loading_flags
from gemlet.cli.opening import loader, opened
from gemlet.cli.terminal import is_screen, note, print_json, printable
from gemlet.errors import ConfigError, InvalidRequestError, MissingExtraError

if TYPE_CHECKING:
    from gemlet.serve.traffic.records import Place
    from gemlet.serve.traffic.replay import Plan, Result
    from gemlet.serve.traffic.target import Target

DESCRIPTION = """Send the requests that `gemlet serve --record` kept to another model or endpoint.

Each is sent once, as it was, and its answer laid beside the recorded one: text, calls of tools, why it
ended, refusals, durations, tokens, cost. A model is opened in this process; an address is called."""
EXAMPLES = (
    "gemlet replay traffic/ --against gemma-3-1b-it",
    "gemlet replay traffic/ --against https://api.openai.com/v1 --model gpt-4o-mini --prices 0.15,0.60",
    "gemlet replay traffic/ --against http://127.0.0.1:8000/v1 --key-env LOCAL_KEY --limit 50",
    "gemlet replay traffic/ --against gemma-3-1b-it -o result.json --fail-on difference",
)

KEY = "OPENAI_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet replay`."""
    parser.add_argument("source", type=Path, metavar="DIR|FILE", help="what was recorded")
    group = parser.add_argument_group("where requests go")
    group.add_argument(
        "--against",
        required=True,
        metavar="URL|REF",
        help="base URL of an OpenAI-compatible API, such as http://127.0.0.1:8000/v1, or a model reference",
    )
    group.add_argument(
        "--model", metavar="NAME", help="ask for this model (default: the recorded name; for a REF its own)"
    )
    group.add_argument(
        "--key-env", metavar="VARIABLE", help=f"environment variable that holds the key (default: {KEY})"
    )
    group = parser.add_argument_group("what is sent")
    group.add_argument("--limit", type=int, metavar="N", help="the first N requests only")
    group.add_argument("--concurrency", type=int, default=1, metavar="N", help="at once (default: 1)")
    group.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="for one answer (default: 600)"
    )
    group.add_argument(
        "--ask-usage", action="store_true", help="ask streams for their token counts, which the cost needs"
    )
    group.add_argument(
        "--skip-unreadable", action="store_true", help="leave out lines that are no records (default: stop)"
    )
    add_loading_flags(parser.add_argument_group("model, for a REF"))
    group = parser.add_argument_group("what to do with the result")
    group.add_argument("--show", type=int, default=10, metavar="N", help="differences shown (default: 10)")
    for flag, whose in (("--prices", "the new answers"), ("--recorded-prices", "the recorded answers")):
        group.add_argument(
            flag,
            type=_prices,
            metavar="IN,OUT",
            help=f"of a million tokens of prompts and of {whose} (default: 0 on this machine)",
        )
    group.add_argument(
        "--fail-on", choices=("error", "difference"), help="exit with 1 for one (difference: for either)"
    )
    group.add_argument("-o", "--output", type=Path, metavar="FILE", help="write all results as JSON")
    group.add_argument("--json", action="store_true", help="print one JSON document")


def _prices(text: str) -> tuple[float, float]:
    try:
        one, other = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes two numbers, such as 0.15,0.60; not '{text}'") from None
    if not (0 <= one < 1e9 and 0 <= other < 1e9):
        raise argparse.ArgumentTypeError("prices are from 0")
    return one, other


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    _check(parsed)
    from gemlet.serve.traffic.replay import Plan, Replay

    places, left_out = chosen(parsed.source, parsed.limit, parsed.skip_unreadable)
    if not parsed.quiet:
        for reason, count in left_out.items():
            note(f"left out: {count} of the recorded requests: {reason}")
    if not places:
        raise InvalidRequestError(f"{parsed.source}: holds no request with a whole answer")
    with _target(parsed, len(places)) as (target, model):
        plan = Plan(model, parsed.concurrency, parsed.timeout, parsed.ask_usage)
        replay = Replay(places, target, plan)
        results, interrupted = _collect(replay, len(places), parsed.quiet)
    if replay.gave_up is not None:
        note(f"stopped: {printable(replay.gave_up)}")
    facts = _facts(parsed, plan, target, len(places), left_out)
    facts["stopped"] = replay.gave_up or ("Ctrl-C" if interrupted else None)
    document = _result(parsed, facts, results, target.local)
    _tell(parsed, document)
    if interrupted:
        raise KeyboardInterrupt  # said by the exit code
    failed = document["failed"] > 0 or (parsed.fail_on == "difference" and document["different"] > 0)
    return int(replay.gave_up is not None or (parsed.fail_on is not None and failed))


def _check(parsed: argparse.Namespace) -> None:
    for name, most in (("limit", 1 << 31), ("concurrency", 256)):
        value = getattr(parsed, name)
        if value is not None and not 1 <= value <= most:
            raise InvalidRequestError(f"--{name} must be from 1 to {most}, not {value}")
    if not 0 < parsed.timeout <= 86400:
        raise InvalidRequestError(f"--timeout must be above 0 and at most 86400, not {parsed.timeout:g}")
    if parsed.output is not None:
        _check_output(parsed.output, parsed.source)
    if parsed.show < 0:
        raise InvalidRequestError(f"--show must be from 0, not {parsed.show}")


def _check_output(output: Path, source: Path) -> None:
    if output.is_dir() or not output.parent.is_dir():
        raise InvalidRequestError(f"-o {output}: is no file in a folder that there is")
    if output.suffix == ".jsonl" or (output.exists() and source.exists() and output.samefile(source)):
        hint = "the result is one JSON document: name it something.json"
        raise InvalidRequestError(f"-o {output}: would replace a record, or be taken for one", hint=hint)


def chosen(source: Path, limit: int | None, skip: bool) -> tuple[list[Place], Counter[str]]:
    """The records to replay, and how many are not, by the reason. Everything is read before anything is sent.

    Raises RecordError for the first line that is no record, unless `skip`.
    """
    from gemlet.serve.traffic.records import RecordError, record_files, scan
    from gemlet.serve.traffic.replay import recorded_answer, why_not

    places: list[Place] = []
    left_out: Counter[str] = Counter()
    for path in record_files(source):
        for place, found in scan(path):
            try:
                if isinstance(found, RecordError):
                    raise found
                if (reason := why_not(found)) is None:
                    recorded_answer(place, found)
            except RecordError as error:
                if not skip:
                    raise
                reason = f"unreadable: {error.problem}"
            if reason is not None:
                left_out[reason] += 1
            elif limit is None or len(places) < limit:
                places.append(place)
    return places, left_out


@contextmanager
def _target(parsed: argparse.Namespace, count: int) -> Iterator[tuple[Target, str | None]]:
    """What requests go to, and the name that replaces the recorded one."""
    from gemlet.serve.traffic.target import AppTarget

    if parsed.against.lower().startswith(("http://", "https://")):
        yield _endpoint(parsed, count)
        return
    load = loader(parsed)
    try:
        from gemlet.serve.app import make_app
        from gemlet.serve.registry import Registry
    except ImportError as error:
        raise MissingExtraError("gemlet replay with a model in this process", "serve") from error
    with opened(load, parsed, parsed.against, parallel=parsed.concurrency) as model:
        name = Registry([model]).all()[0].name
        if not parsed.quiet:
            note(f"{_requests(count)} go to {name}, in this process")
        with AppTarget(make_app([model]), name) as target:
            yield target, parsed.model or name


def _endpoint(parsed: argparse.Namespace, count: int) -> tuple[Target, str | None]:
    from gemlet.serve.traffic.target import HttpTarget, endpoint_url, is_loopback

    base, _, model = parsed.against.partition("#")
    if model and parsed.model:
        raise InvalidRequestError("--against URL#NAME and --model both name a model")
    url = endpoint_url(base)
    key = os.environ.get(parsed.key_env or KEY, "").strip() or None
    if parsed.key_env is not None and key is None:
        raise ConfigError(f"--key-env {parsed.key_env}: there is no such variable, or it is empty")
    exposed = url.scheme == "http" and not is_loopback(url)
    if exposed and key is not None and parsed.key_env is None:
        note(f"{KEY} is not sent, as the way to {url.hostname} is not encrypted; --key-env {KEY} sends it")
        key = None
    held = f"with the key in {parsed.key_env or KEY}" if key is not None else "without a key"
    if not is_loopback(url):
        way = " WITHOUT ENCRYPTION" if exposed else ""
        note(f"{_requests(count)}, prompts and all, LEAVE THIS MACHINE{way}: to {url.geturl()}, {held}")
    elif not parsed.quiet:
        note(f"{_requests(count)} go to {url.geturl()}, {held}")
    return HttpTarget(url, key), model or parsed.model


def _requests(count: int) -> str:
    return f"{count} request{'' if count == 1 else 's'}"


def _collect(replay: Any, count: int, quiet: bool) -> tuple[list[Result], bool]:
    """All results; after Ctrl-C those that there are. A second Ctrl-C ends at once."""
    results: list[Result] = []
    interrupted = False
    screen = is_screen(sys.stderr) and not quiet
    try:
        while True:
            try:
                result = next(replay, None)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                replay.stop()
                continue
            if result is None:
                return results, interrupted
            results.append(result)
            if screen:
                print(f"\r\x1b[K{len(results)} of {count} answered", end="", file=sys.stderr, flush=True)
    finally:
        if screen:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _facts(
    parsed: argparse.Namespace, plan: Plan, target: Target, count: int, left_out: Counter[str]
) -> dict[str, Any]:
    from gemlet.version import __version__

    return {
        "gemlet": __version__,
        "source": str(parsed.source),
        "against": target.name,
        "model": plan.model,
        "concurrency": plan.concurrency,
        "chosen": count,
        "left_out": dict(left_out),
    }


def _result(
    parsed: argparse.Namespace, facts: dict[str, Any], results: Sequence[Result], local: bool
) -> dict[str, Any]:
    from gemlet.serve.traffic.summary import rows, summarise

    free = (0.0, 0.0)
    prices = parsed.prices or (free if local else None)
    return facts | summarise(results, parsed.recorded_prices or free, prices) | {"results": rows(results)}


def _tell(parsed: argparse.Namespace, document: dict[str, Any]) -> None:
    from gemlet.cli.replay_table import lines
    from gemlet.formats.files import replaced_file

    if parsed.json:
        print_json(document)
    else:
        print(printable("\n".join(lines(document, parsed.show))), flush=True)
    if parsed.output is None:
        return
    with replaced_file(parsed.output) as file:
        text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
        file.write(text.encode(errors="backslashreplace"))  # a lone surrogate becomes JSON's escape
    if not parsed.quiet:
        note(f"written to {parsed.output}")
