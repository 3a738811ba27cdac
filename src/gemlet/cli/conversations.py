"""Conversations kept on this machine: one SQLite file that only its owner can read."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from gemlet.errors import ConfigError, InvalidRequestError
from gemlet.types import Message

MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id INTEGER PRIMARY KEY AUTOINCREMENT, updated TEXT NOT NULL, model TEXT NOT NULL, system TEXT,
        dropped INTEGER NOT NULL);
    CREATE TABLE messages (
        conversation INTEGER NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
        position INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL,
        PRIMARY KEY (conversation, position));
    """,
)
"""Number n brings a file from version n-1 to n. Files exist in the world: add at the end, change none."""


@dataclass(frozen=True)
class Conversation:
    """A kept conversation. `dropped` is how many of its first messages no longer go to the model."""

    id: int
    updated: str
    model: str
    system: str | None
    dropped: int
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Summary:
    """One line of the list of conversations. `title` is the beginning of its first message."""

    id: int
    updated: str
    model: str
    messages: int
    title: str


class Conversations:
    """The file of conversations. Several programs may use it at once; each change is one transaction."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises ConfigError where it is not usable."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQLite would create it readable by everybody; its journal takes the mode of the file.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            hint = "Use chat with --no-history, or set XDG_DATA_HOME to another folder."
            problem = f"conversations cannot be kept here: {error.strerror}"
            raise ConfigError(f"{path}: {problem}", hint=hint) from error
        self._connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        try:
            # Deleted text is overwritten in the file.
            self._connection.executescript("PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON;")
            self._migrate()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def save(
        self,
        conversation: int | None,
        messages: Sequence[Message],
        *,
        model: str,
        system: str | None,
        dropped: int,
    ) -> int:
        """Write the conversation as it is now; None makes a new one. Returns its id."""
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        with self._transaction() as execute:
            row = (now, model, system, dropped)
            if conversation is None:
                made = execute(
                    "INSERT INTO conversations (updated, model, system, dropped) VALUES (?, ?, ?, ?)", row
                )
                conversation = int(made.lastrowid or 0)
            else:
                execute(
                    "INSERT INTO conversations (updated, model, system, dropped, id) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (id) DO UPDATE SET updated=excluded.updated, model=excluded.model, "
                    "system=excluded.system, dropped=excluded.dropped",
                    (*row, conversation),
                )
            execute("DELETE FROM messages WHERE conversation = ?", (conversation,))
            for position, message in enumerate(messages):
                execute(
                    "INSERT INTO messages VALUES (?, ?, ?, ?)",
                    (conversation, position, message.role, message.content),
                )
        return conversation

    def load(self, conversation: int | None = None) -> Conversation:
        """A conversation by its id, or the last one. Raises InvalidRequestError where there is none."""
        query = "SELECT id, updated, model, system, dropped FROM conversations "
        with self._transaction() as execute:
            if conversation is None:
                row = execute(query + "ORDER BY updated DESC, id DESC LIMIT 1").fetchone()
            else:
                row = execute(query + "WHERE id = ?", (conversation,)).fetchone()
            if row is None:
                raise _missing(conversation)
            rows = execute(
                "SELECT role, content FROM messages WHERE conversation = ? ORDER BY position", row[:1]
            )
            messages = tuple(Message(role, content) for role, content in rows)
        number, updated, model, system, dropped = row
        return Conversation(number, updated, model, system, dropped, messages)

    def summaries(self) -> list[Summary]:
        """All conversations, the latest first."""
        with self._transaction() as execute:
            rows = execute(
                "SELECT id, updated, model, "
                "(SELECT count(*) FROM messages WHERE conversation = id), coalesce((SELECT content "
                "FROM messages WHERE conversation = id AND role = 'user' ORDER BY position), '') "
                "FROM conversations ORDER BY updated DESC, id DESC"
            ).fetchall()
        return [
            Summary(number, updated, model, messages, " ".join(first[:200].split())[:60])
            for number, updated, model, messages, first in rows
        ]

    def delete(self, conversation: int) -> None:
        """Remove a conversation. Raises InvalidRequestError where there is none."""
        with self._transaction() as execute:
            if execute("DELETE FROM conversations WHERE id = ?", (conversation,)).rowcount == 0:
                raise _missing(conversation)

    def _migrate(self) -> None:
        with self._transaction() as execute:
            version = int(execute("PRAGMA user_version").fetchone()[0])
            if version > len(MIGRATIONS):
                raise ConfigError(
                    f"{self._path}: written by a newer gemlet (version {version} of the file)",
                    hint="Update gemlet, or use chat with --no-history.",
                )
            for number, script in enumerate(MIGRATIONS[version:], version + 1):
                for statement in script.split(";"):
                    execute(statement)
                execute(f"PRAGMA user_version = {number}")

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            hint = "Move the file away, or use chat with --no-history."
            raise ConfigError(f"{self._path}: conversations: {error}", hint=hint) from None


def _missing(conversation: int | None) -> InvalidRequestError:
    if conversation is None:
        return InvalidRequestError("no conversation has been kept yet", hint="start one with: gemlet chat")
    return InvalidRequestError(f"there is no conversation {conversation}", hint="see: gemlet chat --list")
