"""A conversation in progress: what was said, what goes to the model, what is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemlet.cli.conversations import Conversation, Conversations
from gemlet.errors import InvalidRequestError
from gemlet.types import Completion, Message, TokenEvent


@dataclass
class Session:
    """The state of one `gemlet chat`. A turn is a message of the user and the answer to it.

    `dropped` counts the oldest messages that no longer go to the model; they stay in the record.
    """

    model: Any
    reference: str
    system: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    kept: Conversations | None = None
    number: int | None = None
    messages: list[Message] = field(default_factory=list)
    dropped: int = 0
    last: Completion | None = None

    def context(self) -> list[Message]:
        """What the model is given: always the whole text, so that caches never change an answer."""
        system = [] if self.system is None else [Message("system", self.system)]
        return [*system, *self.messages[self.dropped :]]

    def stream(self) -> Iterator[TokenEvent]:
        """Ask for the answer to the last message."""
        events: Iterator[TokenEvent] = self.model.chat(self.context(), stream=True, **self.options)
        return events

    def answered(self, text: str, completion: Completion | None) -> None:
        """Add the answer; None as completion where it was stopped."""
        self.messages.append(Message("assistant", text))
        self.last = completion
        self.keep()

    def drop(self, turns: int) -> int:
        """Leave the oldest turns out of what the model is given, never the last one. Returns how many."""
        done = 0
        while done < turns:
            later = [
                i for i in range(self.dropped + 1, len(self.messages)) if self.messages[i].role == "user"
            ]
            if not later:
                break
            self.dropped = later[0]
            done += 1
        return done

    def clear(self) -> None:
        """Start a new conversation; the old one stays in the record."""
        self.messages, self.dropped, self.number, self.last = [], 0, None, None

    def keep(self) -> None:
        """Write the conversation to the record, if there is one."""
        if self.kept is not None and self.messages:
            self.number = self.kept.save(
                self.number, self.messages, model=self.reference, system=self.system, dropped=self.dropped
            )

    def resume(self, conversation: Conversation) -> None:
        """Go on with a kept conversation. A system message given now wins over the kept one."""
        self.clear()
        self.number, self.dropped = conversation.id, conversation.dropped
        self.messages = list(conversation.messages)
        if self.system is None:
            self.system = conversation.system

    def write(self, path: Path) -> None:
        """Save to a JSON file."""
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        document = {
            "model": self.reference,
            "system": self.system,
            "dropped": self.dropped,
            "messages": messages,
        }
        path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def read(self, path: Path) -> None:
        """Load from a JSON file that `write` made, as a new conversation. Raises InvalidRequestError."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidRequestError(f"{path}: not a saved conversation: {error}") from None
        messages, system, dropped = _checked(document, path)
        self.clear()
        self.messages, self.system, self.dropped = messages, system, dropped


def _checked(document: Any, path: Path) -> tuple[list[Message], str | None, int]:
    def require(condition: object, problem: str) -> None:
        if not condition:
            raise InvalidRequestError(f"{path}: not a saved conversation: {problem}")

    require(isinstance(document, dict) and isinstance(document.get("messages"), list), "no list of messages")
    system, dropped = document.get("system"), document.get("dropped", 0)
    require(system is None or isinstance(system, str), "system is not text")
    messages = []
    for number, item in enumerate(document["messages"], 1):
        require(
            isinstance(item, dict) and item.get("role") in ("user", "assistant"),
            f"message {number}: its role",
        )
        require(isinstance(item.get("content"), str), f"message {number}: its content")
        messages.append(Message(item["role"], item["content"]))
    require(type(dropped) is int and 0 <= dropped <= len(messages), "dropped")
    return messages, system, dropped
