"""Finds the verb, runs it, and turns errors into one message and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from gemlet.cli.terminal import EXIT_INTERRUPTED, report_error, silence_stdout
from gemlet.errors import GemletError, InvalidRequestError
from gemlet.version import __version__

VERBS = {
    "run": "answer one prompt",
    "chat": "talk with the model in the terminal",
    "serve": "serve models to clients of the OpenAI API",
    "replay": "run recorded traffic against another model or endpoint, and compare",
    "pull": "download a model",
    "ls": "the models on this machine",
    "rm": "remove a model, or clear the cache",
    "ps": "the servers that run on this machine",
    "check": "licence, origin, identity and card of a model or of a folder to be shipped",
    "show": "what a model file is: shapes, types, sizes, licence, memory",
    "plan": "memory, speed and cost of a model before it is loaded, here or elsewhere",
    "quantize": "write a model with 8-bit or 4-bit weights, and measure the loss",
    "export": "write a model as GGUF or as a transformers folder, and check it",
    "tune": "teach a model a domain: an adapter or all values, trained on your examples",
    "config": "see and change the settings",
    "bench": "measure speed, memory and how near the machine's limits they are",
}
"""Each verb is the module of that name in this folder; it is imported only when it is used."""

EXIT_BROKEN_PIPE = 141


class Parser(argparse.ArgumentParser):
    """A parser that takes flags only by their full names and reports errors like the rest of gemlet."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise InvalidRequestError(message, hint=f"see: {self.prog} --help")


def verb_parser(verb: str) -> Parser:
    """The complete parser of one verb."""
    module = importlib.import_module(f"gemlet.cli.{verb}")
    parser = Parser(prog=f"gemlet {verb}", **_texts(module))
    _fill(parser, module)
    return parser


def _fill(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    """The arguments of a verb, or of each of its own verbs: those are modules named VERB_NAME."""
    if not hasattr(module, "VERBS"):
        module.add_arguments(parser)
        parser.set_defaults(execute=module.execute)
        return
    verbs = parser.add_subparsers(metavar="VERB", required=True, title="verbs", help="one of these")
    for name, summary in module.VERBS.items():
        inner = importlib.import_module(f"{module.__name__}_{name}")
        _fill(verbs.add_parser(name, help=summary, **_texts(inner)), inner)


def _texts(module: ModuleType) -> dict[str, Any]:
    epilog = "examples:\n" + "\n".join(f"  {line}" for line in module.EXAMPLES)
    return {"description": module.DESCRIPTION, "epilog": epilog}


def overview() -> str:
    """The text of `gemlet help`."""
    verbs = "\n".join(f"  {name:<8} {summary}" for name, summary in VERBS.items())
    return (
        "usage: gemlet VERB [options]\n\n"
        "A local engine for Gemma 3.\n\n"
        f"verbs:\n{verbs}\n  help     this text, or the help of a verb: gemlet help VERB\n\n"
        "options:\n  --version   print the version\n  -h, --help  this text\n\n"
        'examples:\n  gemlet run "Why is the sky blue?"\n  git diff | gemlet run "Write a commit message."\n'
        "  gemlet chat\n"
    )


def _unknown_verb(verb: str) -> InvalidRequestError:
    from difflib import get_close_matches

    near = get_close_matches(verb, [*VERBS, "help"], n=1)
    hint = f"did you mean: gemlet {near[0]}" if near else "see: gemlet help"
    return InvalidRequestError(f"there is no verb '{verb}'", hint=hint)


def _dispatch(arguments: list[str], load: Any) -> int:
    verb, *rest = arguments or ["help"]
    if verb == "--version":
        print(f"gemlet {__version__}")
        return 0
    if verb in ("help", "-h", "--help"):
        if not rest:
            print(overview(), end="")
            return 0
        verb, rest = rest[0], [*rest[1:], "--help"]
    if verb not in VERBS:
        raise _unknown_verb(verb)
    parsed = verb_parser(verb).parse_args(rest)
    parsed.load = load
    return int(parsed.execute(parsed))


def _report(error: GemletError, as_json: bool) -> int:
    if os.environ.get("GEMLET_DEBUG") == "1":
        import traceback

        traceback.print_exception(error.__cause__ or error)
    report_error(error, as_json=as_json)
    return error.exit_code


def _as_gemlet_error(error: Exception) -> GemletError:
    if isinstance(error, GemletError):
        return error
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        known = GemletError(f"{where}{error.strerror or error}")
    else:
        known = GemletError(
            f"internal error: {type(error).__name__}: {error}",
            hint="This is a defect in gemlet. GEMLET_DEBUG=1 shows where it happened.",
        )
    known.__cause__ = error
    return known


def main(argv: Sequence[str] | None = None, *, load: Any = None) -> int:
    """Run the command and return its exit code. `load` stands in for `gemlet.load` (tests)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = _dispatch(arguments, load)
        sys.stdout.flush()
        return code
    except SystemExit as exit_request:  # argparse, after --help
        return int(exit_request.code or 0)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _report(_as_gemlet_error(error), "--json" in arguments)


if __name__ == "__main__":
    sys.exit(main())
