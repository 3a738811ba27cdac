"""Servers that run on this machine: a small file for each, in the cache folder."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gemlet.store.settings import cache_dir


@dataclass(frozen=True)
class ServerFile:
    """What a running server left: `path` of the file, its address, process, and when it began (Unix time).

    references: the models it was given, as they were given.
    """

    path: Path
    address: str
    pid: int
    since: float
    references: tuple[str, ...] = ()

    def remove(self) -> None:
        """Forget it."""
        with suppress(OSError):
            self.path.unlink()


@dataclass(frozen=True)
class _Content:
    machine: str
    address: str
    pid: int
    since: float
    references: list[str] = field(default_factory=list)


@contextmanager
def listed(address: str, references: Iterable[str] = ()) -> Iterator[None]:
    """This process is in the list meanwhile, at that address. OSError where the file cannot be written."""
    folder = servers_dir()
    folder.mkdir(parents=True, exist_ok=True)
    content = _Content(platform.node(), address, os.getpid(), time.time(), list(references))
    path = folder / f"{content.pid}.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(content)), encoding="utf-8")
    new.replace(path)  # whole, whenever it is read
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()


def server_files() -> list[ServerFile]:
    """Those of this machine, oldest first. A process that was killed has left its file, too."""
    found = []
    with suppress(OSError):
        for path in servers_dir().glob("*.json"):
            content = _read(path)
            if content is not None and content.machine == platform.node():
                found.append(
                    ServerFile(path, content.address, content.pid, content.since, tuple(content.references))
                )
    return sorted(found, key=lambda one: (one.since, one.pid))


def servers_dir() -> Path:
    """Folder of the files."""
    return cache_dir() / "servers"


def _read(path: Path) -> _Content | None:
    """None for what no server wrote."""
    try:
        content = _Content(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    kinds = isinstance(content.machine, str) and isinstance(content.address, str)
    numbers = isinstance(content.pid, int) and isinstance(content.since, (int, float))
    listed = isinstance(content.references, list) and all(isinstance(r, str) for r in content.references)
    return (
        content
        if kinds and numbers and listed and content.address.startswith(("http://", "https://"))
        else None
    )
