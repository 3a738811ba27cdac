"""The ways an answer leaves `gemlet run`: text as it is written, one JSON document, or JSON lines."""

from __future__ import annotations

import argparse
from typing import Any, Protocol, TextIO

from gemlet.cli.terminal import is_screen, print_json, printable
from gemlet.types import Completion, TokenEvent, as_dict


class Collected:
    """What has arrived so far, choice by choice."""

    def __init__(self, choices: int) -> None:
        self._texts: list[list[str]] = [[] for _ in range(choices)]
        self._ids: list[list[int]] = [[] for _ in range(choices)]
        self._completions: dict[int, Completion] = {}

    def add(self, event: TokenEvent) -> None:
        """Take one event of the stream."""
        self._texts[event.index].append(event.text)
        if event.token_id is not None:
            self._ids[event.index].append(event.token_id)
        if event.completion is not None:
            self._completions[event.index] = event.completion

    def texts(self) -> list[str]:
        """The text of each choice so far."""
        return ["".join(pieces) for pieces in self._texts]

    def completions(self) -> list[Completion]:
        """The finished choices, in order."""
        return [self._completions[index] for index in sorted(self._completions)]

    def documents(self) -> list[dict[str, Any]]:
        """Each choice as a JSON-ready dictionary; an unfinished one has what is there, as "cancelled"."""
        return [
            as_dict(self._completions[index])
            if index in self._completions
            else {"text": text, "token_ids": self._ids[index], "finish_reason": "cancelled"}
            for index, text in enumerate(self.texts())
        ]


class Output(Protocol):
    """Where events go."""

    def event(self, event: TokenEvent) -> None: ...

    def finish(self, collected: Collected) -> None: ...


class TextOutput:
    """One choice, written as it arrives."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout
        self._safe = printable if is_screen(stdout) else str
        self._last = "\n"

    def event(self, event: TokenEvent) -> None:
        if event.text:
            self._stdout.write(self._safe(event.text))
            self._stdout.flush()
            self._last = event.text[-1]

    def finish(self, collected: Collected) -> None:
        if self._last != "\n":
            self._stdout.write("\n")
        self._stdout.flush()


class ChoicesOutput:
    """Several choices: they arrive interleaved, so each is written whole, under its number."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout
        self._safe = printable if is_screen(stdout) else str

    def event(self, event: TokenEvent) -> None:
        pass

    def finish(self, collected: Collected) -> None:
        for number, text in enumerate(collected.texts(), 1):
            self._stdout.write(f"--- {number} ---\n{self._safe(text)}\n")
        self._stdout.flush()


class JsonOutput:
    """One document at the end: a completion, or a list of them when several choices were asked for."""

    def event(self, event: TokenEvent) -> None:
        pass

    def finish(self, collected: Collected) -> None:
        documents = collected.documents()
        print_json(documents if len(documents) > 1 else documents[0])


class JsonLinesOutput:
    """One line for each event; the last of each choice carries its completion."""

    def event(self, event: TokenEvent) -> None:
        print_json(as_dict(event))

    def finish(self, collected: Collected) -> None:
        pass


def output_for(parsed: argparse.Namespace, stdout: TextIO) -> Output:
    """The output that the flags ask for."""
    if parsed.json:
        return JsonLinesOutput() if parsed.stream else JsonOutput()
    return TextOutput(stdout) if parsed.n == 1 else ChoicesOutput(stdout)
