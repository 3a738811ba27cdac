"""`gemlet serve`: an OpenAI-compatible server on this machine."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from gemlet.cli.terminal import note
from gemlet.errors import ConfigError, InvalidRequestError, MissingExtraError

DESCRIPTION = "Serve models to clients of the OpenAI API, on this machine unless told otherwise."
EXAMPLES = (
    "gemlet serve",
    "gemlet serve -m gemma-3-1b-it --port 8080",
    "gemlet serve -m gemma-3-1b-it -m gemma-3-1b-it+~/adapters/support",
    "gemlet serve --host 0.0.0.0 --allowed-host example.org --api-key-file keys.txt",
)

PORT = 11435
SECONDS_TO_FINISH = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet serve`."""
    parser.add_argument("-m", "--model", action="append", metavar="REF", help="a model to serve; repeatable")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0: any that is free")
    parser.add_argument("--parallel", type=int, metavar="N", help="answers computed together (default: 16)")
    parser.add_argument("-c", "--context", type=int, metavar="TOKENS", help="context length of a request")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: the cores it may use)")
    parser.add_argument("--draft", metavar="REF", help="a smaller model whose guesses are checked")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="keys, one a line; also GEMLET_API_KEY"
    )
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="another name it may be called by"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no log lines, errors only")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    try:
        import uvicorn

        from gemlet.serve.app import make_app
        from gemlet.serve.guard import Rules
    except ImportError as error:
        raise MissingExtraError("gemlet serve", "serve") from error
    if not 0 <= parsed.port < 65536:
        raise InvalidRequestError(f"--port must be from 0 to 65535, not {parsed.port}")
    keys = _keys(parsed.api_key_file)
    from gemlet.store.load import load as library_load

    load = parsed.load or library_load
    hosts = (*Rules.hosts, parsed.host, *parsed.allowed_host)
    with ExitStack() as stack:
        models = []
        for reference in parsed.model or [None]:
            model = load(
                reference,
                context=parsed.context,
                threads=parsed.threads,
                draft=parsed.draft,
                parallel=parsed.parallel,
            )
            models.append(stack.enter_context(model))
            for line in model.notices:
                note(line)
        log = (lambda line: None) if parsed.quiet else _write_line
        app = make_app(models, Rules(keys, hosts), log)
        config = uvicorn.Config(
            app,
            host=parsed.host,
            port=parsed.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SECONDS_TO_FINISH,
        )
        note(f"serving on http://{parsed.host}:{parsed.port}/v1, Ctrl-C ends")
        uvicorn.Server(config).run()
    return 0


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
