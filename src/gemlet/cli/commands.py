"""The commands inside `gemlet chat`, such as /set and /regen."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gemlet.cli.flags import SETTINGS
from gemlet.cli.session import Session
from gemlet.errors import InvalidRequestError


class Leave(Exception):
    """The person asked to end the chat."""


class Regenerate(Exception):
    """The person asked for another answer to the last message."""


@dataclass(frozen=True)
class Command:
    """A command: how it is written, what it does, and the function that does it and returns what to print."""

    usage: str
    help: str
    run: Callable[[Session, str], str]


def run_command(session: Session, line: str) -> str:
    """Carry out a line that starts with "/"; returns what to print. May raise Leave or Regenerate."""
    name, _, argument = line.strip().partition(" ")
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "/help lists the commands"
        hint += "; a space before the / makes it a message"
        raise InvalidRequestError(f"there is no command {name}", hint=hint)
    return COMMANDS[name].run(session, argument.strip())


def _help(session: Session, argument: str) -> str:
    lines = [f"  {command.usage:<20} {command.help}" for command in COMMANDS.values()]
    return "\n".join(
        [
            *lines,
            "",
            f"  settings: {', '.join(['system', 'stop', *(setting.name for setting in SETTINGS)])}",
            '  """ begins and ends a message of several lines; so does Alt-Enter for each new line.',
            "  Ctrl-C stops an answer. At the prompt, Ctrl-D or Ctrl-C twice leaves.",
        ]
    )


def _clear(session: Session, argument: str) -> str:
    session.clear()
    return "a new conversation begins; the system message and settings stay"


def _set(session: Session, argument: str) -> str:
    if not argument:
        return _settings(session)
    name, _, text = argument.partition(" ")
    text = text.strip()
    if name == "system":
        session.system = text or None
    elif name == "stop":
        session.options["stop"] = tuple(shlex.split(text))
    else:
        _set_option(session.options, name, text)
    return f"{name} = {text}" if text else f"{name}: back to the default"


def _set_option(options: dict[str, Any], name: str, text: str) -> None:
    by_name = {setting.name: setting for setting in SETTINGS}
    if name not in by_name:
        near = get_close_matches(name, [*by_name, "system", "stop"], n=1)
        hint = f"did you mean {near[0]}?" if near else "/help lists the settings"
        raise InvalidRequestError(f"there is no setting {name}", hint=hint)
    if not text:
        options.pop(name, None)
        return
    try:
        options[name] = by_name[name].parse(text)
    except ValueError:
        kind = "a whole number" if by_name[name].parse is int else "a number"
        raise InvalidRequestError(f"{name} must be {kind}, not '{text}'") from None


def _settings(session: Session) -> str:
    chosen = {name: value for name, value in session.options.items() if value not in (None, ())}
    lines = [] if session.system is None else [f"  system = {session.system}"]
    lines += [f"  {name} = {value}" for name, value in chosen.items()]
    return "\n".join([*lines, "  everything else: the model's defaults"])


def _show(session: Session, argument: str) -> str:
    lines = [f"  model         {session.reference}"]
    lines.append(f"  conversation  {session.number or 'not kept'}, {len(session.messages)} messages")
    if session.dropped:
        lines.append(f"  dropped       the first {session.dropped} messages no longer go to the model")
    if session.last is not None:
        usage, timings = session.last.usage, session.last.timings
        used = usage.prompt_tokens + usage.completion_tokens
        lines.append(
            f"  last answer   {used} tokens of context, {usage.cached_tokens} of them from the cache"
        )
        if timings.decode_tokens_per_s is not None:
            lines.append(f"  speed         {timings.decode_tokens_per_s:.1f} tokens/s")
    return "\n".join([*lines, _settings(session)])


def _save(session: Session, argument: str) -> str:
    path = _file(argument, "/save FILE")
    session.write(path)
    return f"saved to {path}"


def _load(session: Session, argument: str) -> str:
    if argument.isdigit():
        if session.kept is None:
            raise InvalidRequestError(
                "conversations are not kept here (history is off); /load takes a file then"
            )
        session.resume(session.kept.load(int(argument)))
    else:
        session.read(_file(argument, "/load FILE or /load NUMBER"))
    return f"loaded: {len(session.messages)} messages"


def _file(argument: str, usage: str) -> Path:
    if not argument:
        raise InvalidRequestError(f"which one? {usage}")
    return Path(os.path.expanduser(argument))


def _regenerate(session: Session, argument: str) -> str:
    raise Regenerate


def _drop(session: Session, argument: str) -> str:
    if argument and not argument.isdigit():
        raise InvalidRequestError(f"/drop takes a number of turns, not '{argument}'")
    done = session.drop(int(argument or 1))
    session.keep()
    return f"{done} turns dropped; {len(session.messages) - session.dropped} messages go to the model"


def _leave(session: Session, argument: str) -> str:
    raise Leave


COMMANDS = {
    "/help": Command("/help", "this list", _help),
    "/clear": Command("/clear", "start a new conversation", _clear),
    "/set": Command(
        "/set [NAME [VALUE]]", "change a setting; without a value, its default; alone, show them", _set
    ),
    "/show": Command("/show", "the model, the conversation, the settings", _show),
    "/save": Command("/save FILE", "write the conversation to a JSON file", _save),
    "/load": Command("/load FILE|NUMBER", "go on from a file, or from a kept conversation", _load),
    "/regen": Command("/regen", "answer the last message again", _regenerate),
    "/drop": Command("/drop [N]", "leave the N oldest turns out of what the model is given", _drop),
    "/bye": Command("/bye", "leave; /exit does the same", _leave),
    "/exit": Command("/exit", "leave", _leave),
}
