"""`gemlet serve`: an OpenAI-compatible server on this machine."""

from __future__ import annotations

import argparse
import errno
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gemlet.cli.flags import add_model_flags
from gemlet.cli.opening import load_as, loader, opened
from gemlet.cli.terminal import note
from gemlet.errors import ConfigError, InvalidRequestError, MissingExtraError

if TYPE_CHECKING:
    from gemlet.serve.traffic.records import Exchange

DESCRIPTION = "Serve models to clients of the OpenAI API, on this machine unless told otherwise."
EXAMPLES = (
    "gemlet serve",
    "gemlet serve -m gemma-3-1b-it --port 8080",
    "gemlet serve -m gemma-3-1b-it -m gemma-3-1b-it+~/adapters/support",
    "gemlet serve --record traffic/",
    "gemlet serve --host 0.0.0.0 --allowed-host example.org --api-key-file keys.txt",
)

PORT = 11435
GRACE = 30.0

EXIT_CUT = 11
"""The exit code when answers were cut off at the end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet serve`."""
    add_model_flags(parser, several=True)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    group.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0: any that is free")
    group.add_argument("--parallel", type=int, metavar="N", help="answers computed together (default: 16)")
    group.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="keys, one a line; also GEMLET_API_KEY"
    )
    group.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="another name it may be called by"
    )
    group.add_argument(
        "--record",
        type=Path,
        metavar="DIR",
        help="write every prompt and answer to a file there, for gemlet replay (default: nothing is written)",
    )
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate, and with it https (PEM)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    group.add_argument(
        "--deadline", type=_seconds, metavar="SECONDS", help="cut requests that take longer (default: none)"
    )
    group.add_argument(
        "--unload-after",
        type=_minutes,
        metavar="MINUTES",
        help="close a model that nobody has used for so long; the next request opens it again (default: off)",
    )
    group.add_argument(
        "--grace",
        type=_seconds,
        metavar="SECONDS",
        default=GRACE,
        help=f"running answers may go on so long after SIGTERM or Ctrl-C (default: {GRACE:g})",
    )


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    load = loader(parsed)
    try:
        from gemlet.serve.app import make_app
        from gemlet.serve.guard import Rules
        from gemlet.serve.handle import Handle
        from gemlet.serve.server import Server
        from gemlet.serve.tls import check_tls
    except ImportError as error:
        raise MissingExtraError("gemlet serve", "serve") from error
    hosts = (*Rules.hosts, parsed.host, *parsed.allowed_host)
    rules = Rules(_keys(parsed.api_key_file), hosts, deadline=parsed.deadline)
    check_tls(parsed.tls_cert, parsed.tls_key)
    log = _no_line if parsed.quiet else _write_line
    with _listening(parsed.host, parsed.port) as listener, ExitStack() as stack:
        references = parsed.model or [None]
        options = {"parallel": parsed.parallel}
        opening = [opened(load, parsed, reference, **options) for reference in references]
        reopening = [partial(load_as, load, parsed, reference, **options) for reference in references]
        record = None if parsed.record is None else stack.enter_context(_recording(parsed.record))
        handles = [
            stack.enter_context(closing(Handle(stack.enter_context(one), reopen)))
            for one, reopen in zip(opening, reopening, strict=True)
        ]
        app = make_app(handles, rules, log, record, parsed.unload_after)
        server = Server(
            app,
            parsed.grace,
            note,
            log_level="warning",
            access_log=False,
            server_header=False,
            ssl_certfile=parsed.tls_cert,
            ssl_keyfile=parsed.tls_key,
        )
        address = _address(parsed, listener)
        stack.enter_context(_listed(address, [handle.facts.reference for handle in handles]))
        note(f"the API is at {address}/v1, a chat page at {address}/; Ctrl-C ends")
        server.run(sockets=[listener])
    return EXIT_CUT if server.cut else 0


def _address(parsed: argparse.Namespace, listener: socket.socket) -> str:
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return f"http{'s' if parsed.tls_cert else ''}://{host}:{listener.getsockname()[1]}"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _minutes(text: str) -> float | None:
    return None if text == "off" else 60 * _seconds(text)


@contextmanager
def _listed(address: str, references: list[str]) -> Iterator[None]:
    """Found by `gemlet ps` meanwhile."""
    from gemlet.store.servers import listed

    with ExitStack() as stack:
        try:
            stack.enter_context(listed(address, references))
        except OSError as error:  # where the cache cannot be written it serves all the same
            note(f"gemlet ps will not find this server: {error}")
        yield


@contextmanager
def _recording(folder: Path) -> Iterator[Callable[[Exchange], None]]:
    """What keeps the traffic. It is said also when quiet: people must know."""
    from gemlet.serve.traffic.record import TrafficFile

    traffic = TrafficFile(folder, note)
    note(f"RECORDING: prompts and answers are written to {traffic.path}")
    try:
        yield traffic.append
    finally:
        traffic.close()
        lost = f", {traffic.lost} lost" if traffic.lost else ""
        where = f" in {traffic.path}" if traffic.recorded else ""
        note(f"{traffic.recorded} requests recorded{where}{lost}")


def _listening(host: str, port: int) -> socket.socket:
    """Taken before a model is loaded, so that a taken port is said at once."""
    if not 0 <= port < 65536:
        raise InvalidRequestError(f"--port must be from 0 to 65535, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        hint = "another program listens there: choose another --port, or 0 for any that is free"
        taken = error.errno == errno.EADDRINUSE
        reason = (error.strerror or str(error)).partition(" (while ")[0]  # the address is said already
        problem = f"cannot listen on {host}:{port}: {reason}"
        raise ConfigError(problem, hint=hint if taken else None) from error


def _no_line(line: str) -> None:
    pass


def _write_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _keys(path: Path | None) -> tuple[str, ...]:
    keys = [os.environ.get("GEMLET_API_KEY", "")]
    if path is not None:
        try:
            keys += path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--api-key-file {path}: {error}") from error
    found = tuple(key.strip() for key in keys if key.strip())
    if path is not None and not found:
        raise ConfigError(f"--api-key-file {path}: holds no key", hint="write one key a line")
    return found
