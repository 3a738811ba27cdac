"""`gemlet chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from gemlet.cli.commands import COMMANDS, Leave, Regenerate, run_command
from gemlet.cli.conversations import Conversation, Conversations
from gemlet.cli.flags import add_model_flags, add_sampling_flags, sampling_options
from gemlet.cli.opening import OpenModel, open_model
from gemlet.cli.reading import Reader, open_reader
from gemlet.cli.session import Session
from gemlet.cli.stats import stats_line
from gemlet.cli.talk import Talk
from gemlet.cli.terminal import complain, note, print_json, report_error
from gemlet.errors import GemletError, InvalidRequestError
from gemlet.store.settings import data_dir, read_settings
from gemlet.types import as_dict

DESCRIPTION = (
    "Talk with the model. /help lists the commands of the chat; Ctrl-C stops an answer, Ctrl-D leaves.\n"
    "Conversations are kept in a file that only you can read; --no-history turns that off."
)
EXAMPLES = (
    "gemlet chat",
    "gemlet chat -s 'Answer in one sentence.'",
    "gemlet chat --continue",
    "gemlet chat --list",
    "gemlet chat --delete 3",
)
LATEST = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet chat`."""
    group = parser.add_argument_group("conversation")
    group.add_argument("-s", "--system", metavar="TEXT", help="instructions for the whole conversation")
    group.add_argument(
        "--continue", dest="resume", nargs="?", type=int, const=LATEST, metavar="ID",
        help="go on with a kept conversation (default: the last one)",
    )  # fmt: skip
    group.add_argument("--list", action="store_true", help="list the kept conversations")
    group.add_argument(
        "--delete", type=int, action="append", default=[], metavar="ID", help="delete one; repeatable"
    )
    group.add_argument("--no-history", action="store_true", help="keep nothing of this conversation")
    group.add_argument(
        "--drop-old", action="store_true", help="when the context is full, drop the oldest turns"
    )
    add_model_flags(parser)
    add_sampling_flags(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON line for each answer, or for --list")
    group.add_argument("--stats", action="store_true", help="a line with the speeds after each answer")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    if parsed.list or parsed.delete:
        with closing(Conversations(_record())) as kept:
            return _manage(parsed, kept)
    keep = bool(read_settings({"history": False if parsed.no_history else None})["history"].value)
    if parsed.resume is not None and not keep:
        raise InvalidRequestError(
            "there is nothing to continue: history is off", hint="see: gemlet config history"
        )
    if not keep:
        return _chat(parsed, None)
    with closing(Conversations(_record())) as kept:
        return _chat(parsed, kept)


def _record() -> Path:
    return data_dir() / "conversations.sqlite3"


def _manage(parsed: argparse.Namespace, kept: Conversations) -> int:
    for number in parsed.delete:
        kept.delete(number)
        if not parsed.quiet:
            note(f"conversation {number} deleted")
    if parsed.list:
        summaries = kept.summaries()
        if parsed.json:
            print_json(as_dict(summaries))
            return 0
        for one in summaries:
            print(
                f"{one.id:>4}  {one.updated[:16].replace('T', ' ')}  {one.messages:>3} messages  {one.title}"
            )
    return 0


def _chat(parsed: argparse.Namespace, kept: Conversations | None) -> int:
    earlier: Conversation | None = None
    if parsed.resume is not None and kept is not None:
        earlier = kept.load(parsed.resume or None)
        parsed.model = parsed.model or earlier.model
    with open_model(parsed) as opened:
        session = Session(opened.model, opened.reference, parsed.system, sampling_options(parsed), kept)
        if earlier is not None:
            session.resume(earlier)
            _recall(session)
        history = None if kept is None else data_dir() / "input-history"
        return _converse(parsed, opened, session, open_reader(history, list(COMMANDS)))


def _recall(session: Session) -> None:
    note(f"conversation {session.number}: {len(session.messages)} messages; the last ones:")
    for message in session.messages[-2:]:
        first = message.content.strip().splitlines() or [""]
        print(f"  {message.role}: {first[0][:100]}", file=sys.stderr)


def _converse(parsed: argparse.Namespace, opened: OpenModel, session: Session, reader: Reader) -> int:
    """Take inputs until the person leaves; piped, the code of the first message that got no answer."""
    stats = (lambda done: stats_line(opened.load_s, [done])) if parsed.stats else None
    talk = Talk(session, as_json=parsed.json, drop_old=parsed.drop_old, quiet=parsed.quiet, stats=stats)
    if sys.stdin.isatty() and not parsed.quiet:
        note("/help lists the commands; Ctrl-D leaves")
    leaving, code = False, 0
    while True:
        text = ""
        try:
            text = reader.read()
            leaving = False
            _take(talk, text)
        except (EOFError, Leave):
            if sys.stdin.isatty():
                print()
                return 0
            return code
        except KeyboardInterrupt:
            if leaving:
                print()
                return 0
            leaving = True
            print(file=sys.stderr)
            note("Ctrl-C again, or Ctrl-D, leaves")
        except GemletError as error:
            report_error(error, as_json=parsed.json)
            if not text.startswith("/"):
                code = code or error.exit_code
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            complain(f"{error.filename or 'error'}: {error.strerror}")


def _take(talk: Talk, text: str) -> None:
    """Act on one input: a command, or a message to answer."""
    if not text.strip():
        return
    if not text.startswith("/"):
        talk.ask(text)
        return
    try:
        print(run_command(talk.session, text), file=sys.stderr, flush=True)
    except Regenerate:
        talk.ask_again()
