"""Pages of prompts on disk, by content: a file holds 64 positions, named by the hash of all ids up to them.

A name is a link of a `Chain` that begins with all that changes bits, so a file is right or absent, never out
of date. A header binds the content to its name, and each half (global layers, local layers) ends in a
checksum: a torn, altered or foreign file is a StateError and is removed, and the prompt is read again.
Several processes may use a folder at once: a file appears whole, and whoever finds too many bytes removes
those not used for longest. Only the person's own account can read the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gemlet.errors import StateError
from gemlet.formats.files import replaced_file
from gemlet.ops.batch import PAGE, Page
from gemlet.types import Manifest

FORMAT = "gemlet-page-1"
_FACTS = (
    "weights_sha256",
    "adapter_sha256",
    "weights_type",
    "activation_type",
    "kv_type",
    "embedding_scale",
    "instruction_set",
    "engine_version",
)
_HEADER = struct.Struct("<16s32sIIQQ")  # format, key, index, positions, bytes of the global and local halves
_DIGEST_BYTES = 16
_NAME = re.compile(r"[0-9a-f]{64}\.page")
_PART_NAME = re.compile(r"\.[0-9a-f]{64}\.page\..*\.part")

QUEUE_BYTES = 64 * 2**20
"""Pages that may wait to be written. More are not written: a slow disk costs files, not memory or time."""

MOST_JOBS = 4096
"""Jobs in line, from which on the use of pages is no longer noted."""

FREE_BYTES = 2**30
"""Room that is left on the disk for others."""

SECONDS_TO_WRITE = 2.0
"""How long closing waits for what is queued."""

_STALE_SECONDS = 3600.0


def root_key(manifest: Manifest, build: str) -> bytes:
    """What a page's bits depend on besides the token ids. `build`: identifies the compiled library."""
    facts = {name: str(getattr(manifest, name)) for name in _FACTS}
    return json.dumps([FORMAT, build, sorted(facts.items())]).encode()


class Chain:
    """The keys of a sequence's complete pages: each the sha256 of the key before it and the page's ids."""

    def __init__(self, root: bytes) -> None:
        self.root = hashlib.sha256(root).digest()
        self._keys: list[bytes] = []

    def key(self, index: int, ids: Sequence[int]) -> bytes:
        """The key of page `index` of these ids, of which those given before must be a beginning."""
        while len(self._keys) <= index:
            start = len(self._keys) * PAGE
            before = self._keys[-1] if self._keys else self.root
            self._keys.append(hashlib.sha256(before + id_bytes(ids[start : start + PAGE])).digest())
        return self._keys[index]


def id_bytes(ids: Sequence[int]) -> bytes:
    """Token ids as bytes, the same on every machine."""
    return np.asarray(ids, "<i4").tobytes()


class PageMaker(Protocol):
    """The part of a decoder that makes a page of its saved bytes."""

    def restore_page(self, index: int, local: bool, rows: int, data: bytes | memoryview) -> Page: ...


@dataclass(frozen=True)
class _Job:
    """A page to write; without `halves` only to note as used."""

    key: bytes
    index: int
    at: int
    halves: tuple[Page, Page] | None

    @property
    def nbytes(self) -> int:
        return 0 if self.halves is None else sum(half.nbytes for half in self.halves)


class PageFiles:
    """Page files of a folder, together at most `limit` bytes. Nobody waits for one to be written.

    A process writes at most `limit` bytes at once and as many an hour, so that a long run over ever new
    prompts wears out no disk. What cannot be written is not written, without an error.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._changed = threading.Condition()  # guards what follows
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._allowance = float(limit)
        self._refilled = time.monotonic()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._bad: set[bytes] = set()  # files that could not be read; the folder may be read-only
        self._size = limit  # the writer's own: bytes in the folder as far as known; at first it has to look
        self._unseen = 0  # and what it wrote since it looked

    def has(self, key: bytes) -> bool:
        """Whether a file of that name is there and not known as no good."""
        return key not in self._bad and os.path.exists(self._path(key))

    def read(self, maker: PageMaker, key: bytes, index: int, local: bool) -> Page:
        """One half of a page. StateError when there is no file, or no good one, which is then removed."""
        path = self._path(key)
        try:
            data = _read_half(path, key, index, local)
            return maker.restore_page(index, local, PAGE, data)
        except OSError as error:
            self._bad.add(key)
            raise StateError(f"{path}: cannot be read: {error.strerror}") from None
        except StateError:
            self._bad.add(key)
            with suppress(OSError):
                path.unlink()
            raise

    def offer(self, key: bytes, index: int, at: int, page: Page, local_page: Page) -> bool:
        """Have a complete page written; False when it will not be, because too much is.

        at: when its sequence began, `time.time_ns()`: one time for all its pages, so that none counts as
        used later than those before it, without which it is of no use.
        """
        job = _Job(key, index, at, (page, local_page))
        with self._changed:
            now = time.monotonic()
            self._allowance += (now - self._refilled) / 3600 * self._limit
            self._allowance, self._refilled = min(self._allowance, float(self._limit)), now
            if self._closing or job.nbytes > self._allowance or self._queued + job.nbytes > QUEUE_BYTES:
                return False
            self._allowance -= job.nbytes
        self._put([job])
        return True

    def used(self, keys: Sequence[bytes]) -> None:
        """Note that the pages of these keys, the first ones of a sequence, were used."""
        if len(self._jobs) > MOST_JOBS:
            return  # a disk that hangs
        at = time.time_ns()
        self._put([_Job(key, index, at, None) for index, key in enumerate(keys)])

    def flush(self, seconds: float) -> bool:
        """Wait until nothing is queued, at most so long; whether that was reached."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, seconds)

    def close(self) -> None:
        """Write what is queued, within SECONDS_TO_WRITE, and stop."""
        self.flush(SECONDS_TO_WRITE)
        with self._changed:
            self._closing = True
            self._jobs.clear()
            self._queued = 0
            self._changed.notify_all()

    def _put(self, jobs: list[_Job]) -> None:
        with self._changed:
            if self._closing:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gemlet-pages", daemon=True)
                self._thread.start()
            self._jobs += jobs
            self._queued += sum(job.nbytes for job in jobs)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if self._closing:
                    return
                job = self._jobs[0]
            try:
                self._do(job)
            except OSError:  # a full disk, a folder that may not be written: the cache does without
                with self._changed:
                    self._allowance = 0.0
            with self._changed:
                if self._jobs:
                    self._jobs.popleft()
                    self._queued -= job.nbytes
                self._changed.notify_all()

    def _do(self, job: _Job) -> None:
        path = self._path(job.key)
        if job.halves is not None and (job.key in self._bad or not path.exists()):
            data = _packed(job.key, job.index, job.halves)
            self._make_room(sum(len(part) for part in data))
            with replaced_file(path, durable=False) as file:  # torn by a crash, it is noticed
                for part in data:
                    file.write(part)
            self._bad.discard(job.key)
        stamp = job.at - 1000 * job.index
        with suppress(FileNotFoundError):
            os.utime(path, ns=(stamp, stamp))

    def _make_room(self, nbytes: int) -> None:
        _make_private(self._folder)
        # What other processes write is seen now and then; they remove what is too much as well.
        if self._size + nbytes > self._limit or self._unseen > self._limit // 8:
            self._size, self._unseen = evict(self._folder, self._limit - nbytes), 0
        if shutil.disk_usage(self._folder).free < FREE_BYTES + nbytes:
            raise OSError("the disk is nearly full")
        self._size += nbytes
        self._unseen += nbytes

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{key.hex()}.page"


def evict(folder: Path, limit: int) -> int:
    """When page files have more than `limit` bytes, remove those not used for longest; the bytes left.

    A tenth more than needed goes, so that not every page that follows has to look through the folder.
    """
    files = sorted((stat.st_mtime_ns, stat.st_size, path) for path, stat in _listed(folder))
    total = sum(size for _, size, _ in files)
    goal = limit - limit // 10 if total > limit else total
    for _, size, path in files:
        if total <= goal:
            break
        with suppress(FileNotFoundError):  # another process was quicker
            path.unlink()
        total -= size
    return total


def clear(folder: Path) -> int:
    """Remove every page file of a folder; how many there were."""
    count = 0
    for path, _ in _listed(folder):
        with suppress(FileNotFoundError):
            path.unlink()
            count += 1
    return count


def _listed(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The page files of a folder. What a crash left half-written is removed, other files are left alone."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
                elif _PART_NAME.fullmatch(entry.name):
                    age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                    if age > _STALE_SECONDS:
                        os.unlink(entry.path)
    return found


def _make_private(folder: Path) -> None:
    """Prompts are nobody else's business: a folder that only its owner can look into."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def _packed(key: bytes, index: int, halves: tuple[Page, Page]) -> list[bytes]:
    """The parts of a page's file."""
    saved = [half.save() for half in halves]
    header = _HEADER.pack(FORMAT.encode(), key, index, PAGE, len(saved[0]), len(saved[1]))
    return [header + _digest(header), *saved]


def _read_half(path: Path, key: bytes, index: int, local: bool) -> bytes:
    with open(path, "rb", buffering=0) as file:
        start = file.read(_HEADER.size + _DIGEST_BYTES)
        header = start[: _HEADER.size]
        if len(header) != _HEADER.size or start[_HEADER.size :] != _digest(header):
            raise StateError(f"{path}: not a page file")
        form, of_key, of_index, rows, *sizes = _HEADER.unpack(header)
        if (form.rstrip(b"\0"), of_key, of_index, rows) != (FORMAT.encode(), key, index, PAGE):
            raise StateError(f"{path}: another page than its name says")
        if os.fstat(file.fileno()).st_size != len(start) + sum(sizes):
            raise StateError(f"{path}: torn: {sum(sizes)} bytes expected")
        if local:
            file.seek(sizes[0], os.SEEK_CUR)
        data = file.read(sizes[local])
    if len(data) != sizes[local]:
        raise StateError(f"{path}: torn: {sizes[local]} bytes expected")
    return data


def _digest(header: bytes) -> bytes:
    return hashlib.blake2b(header, digest_size=_DIGEST_BYTES).digest()
