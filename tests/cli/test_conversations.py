"""The file of conversations: round trips, its mode, migrations, damage, two programs at once."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemlet.cli.conversations import MIGRATIONS, Conversations
from gemlet.errors import ConfigError, InvalidRequestError
from gemlet.types import Message

ASKED = Message("user", "What is\n\n a  name?")
ANSWERED = Message("assistant", "A word 🙂 with a \x00 in it.")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "conversations.sqlite3"


@pytest.fixture
def kept(file: Path) -> Iterator[Conversations]:
    kept = Conversations(file)
    yield kept
    kept.close()


def save(kept: Conversations, *messages: Message, conversation: int | None = None, dropped: int = 0) -> int:
    return kept.save(conversation, messages, model="m", system="be kind", dropped=dropped)


def test_what_is_saved_comes_back_after_reopening(file: Path, kept: Conversations) -> None:
    first = save(kept, ASKED, ANSWERED)
    second = save(kept, ANSWERED)
    save(kept, ASKED, ANSWERED, ASKED, conversation=first, dropped=2)
    kept.close()
    again = Conversations(file)
    loaded = again.load(first)
    assert loaded.messages == (ASKED, ANSWERED, ASKED)
    assert (loaded.model, loaded.system, loaded.dropped) == ("m", "be kind", 2)
    assert {summary.id: summary.messages for summary in again.summaries()} == {first: 3, second: 1}
    assert {summary.title for summary in again.summaries()} == {"What is a name?", ""}
    again.close()


def test_the_last_one_is_the_last_changed(kept: Conversations, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = save(kept, ASKED), save(kept, ASKED)
    assert kept.load().id == second
    kept._connection.execute("UPDATE conversations SET updated = '2999' WHERE id = ?", (first,))
    assert kept.load().id == first


@pytest.mark.skipif(sys.platform == "win32", reason="file modes")
def test_only_the_owner_can_read_it(file: Path, kept: Conversations) -> None:
    assert os.stat(file).st_mode & 0o777 == 0o600


def test_deleted_text_leaves_the_file(file: Path, kept: Conversations) -> None:
    number = save(kept, Message("user", "a very secret sentence"))
    assert b"very secret" in file.read_bytes()
    kept.delete(number)
    assert b"very secret" not in file.read_bytes()
    assert kept.summaries() == []
    assert save(kept, ASKED) != number  # ids are not used again
    for missing in (number, 99):
        with pytest.raises(InvalidRequestError, match=f"no conversation {missing}"):
            kept.delete(missing)


def test_nothing_kept_yet(kept: Conversations) -> None:
    with pytest.raises(InvalidRequestError, match="no conversation has been kept"):
        kept.load()


def test_a_file_of_a_newer_version_is_refused(file: Path, kept: Conversations) -> None:
    kept._connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(ConfigError, match="newer gemlet"):
        Conversations(file)


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 500])
def test_a_damaged_file_is_refused_by_name(file: Path, damage: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(damage)
    with pytest.raises(ConfigError, match=r"conversations\.sqlite3"):
        Conversations(file)


def test_two_programs_write_to_one_file(file: Path, kept: Conversations) -> None:
    other = Conversations(file)
    numbers = {save(writer, ASKED) for writer in (kept, other) * 5}
    assert {summary.id for summary in kept.summaries()} == numbers
    assert len(numbers) == 10
    other.close()


def test_every_older_version_is_brought_up_to_date(file: Path) -> None:
    file.parent.mkdir()
    for version in range(len(MIGRATIONS)):
        file.unlink(missing_ok=True)
        with sqlite3.connect(file) as old:
            for script in MIGRATIONS[:version]:
                old.executescript(script)
            old.execute(f"PRAGMA user_version = {version}")
        old.close()
        kept = Conversations(file)
        assert kept.load(save(kept, ASKED)).messages == (ASKED,)
        kept.close()
