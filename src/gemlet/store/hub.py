"""The Hugging Face hub: what a repository holds, and its files, fetched into the library's own cache.

huggingface_hub does the talking; the bytes come here, so that a file that was cut off is gone on with where
it ended, also by a later run, and so that Ctrl-C ends a wait at once.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from gemlet.errors import DownloadError, GemletError, LicenceError, MissingExtraError, ModelNotFoundError
from gemlet.formats.files import file_sha256
from gemlet.store.partial import PART, alone, emptied, part_of

TRIES = 4
"""Attempts where the hub is busy, in trouble, or cut off."""

PATIENCE = 60.0
"""Seconds at most that the hub may ask to wait before another attempt."""

PIECE = 1 << 16
"""Bytes that are read at once."""

WRONG = ".wrong"
"""What the name of a file ends in that was set aside: its hash is not the hub's."""

Advance = Callable[[int], None]
T = TypeVar("T")


class Stopped(Exception):
    """The person wants no more of it."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. `sha256` is None for a small one, of which the hub knows the git hash only."""

    name: str
    nbytes: int
    sha256: str | None
    git_sha1: str

    @property
    def etag(self) -> str:
        """The name that the cache keeps it under."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class Listing:
    """A revision of a repository: its commit, files, and the licence that its card names.

    licence_name, licence_link: what the card says of a licence that has no id of its own ("other").
    """

    repository: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str | None
    licence_name: str | None = None
    licence_link: str | None = None


class Hub:
    """A connection. Raises MissingExtraError without huggingface_hub, and typed errors for all that fails.

    endpoint, cache: another hub, another folder, than the library's own variables say.
    """

    def __init__(
        self,
        wait: Callable[[float], object] | None = None,
        endpoint: str | None = None,
        cache: Path | None = None,
    ) -> None:
        try:
            self._library: Any = importlib.import_module("huggingface_hub")
        except ImportError:
            raise MissingExtraError("downloading models", "hub") from None
        self._errors: Any = importlib.import_module("huggingface_hub.errors")
        self._files: Any = importlib.import_module("huggingface_hub.file_download")
        self._tools: Any = importlib.import_module("huggingface_hub.utils")
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        constants = importlib.import_module("huggingface_hub.constants")
        self._endpoint = endpoint or constants.ENDPOINT
        self.cache = cache or Path(constants.HF_HUB_CACHE)
        """The folder that downloads lie in."""
        self._tools.disable_progress_bars()
        self._tools.logging.set_verbosity_error()

    def listing(self, repository: str, revision: str | None) -> Listing:
        """What a revision holds; the main branch by default."""
        api = self._library.HfApi(endpoint=self._endpoint, library_name="gemlet")
        wanted = revision or "main"
        info = self._patiently(
            repository, wanted, lambda: api.model_info(repository, revision=wanted, files_metadata=True)
        )
        files = tuple(_file(repository, sibling) for sibling in info.siblings or ())
        card = info.card_data.to_dict() if info.card_data else {}
        licence, name, link = (
            value if isinstance(value := card.get(key), str) else None
            for key in ("license", "license_name", "license_link")
        )
        return Listing(repository, wanted, info.sha, files, licence, name, link)

    def missing(self, listing: Listing, file: HubFile) -> int:
        """Bytes of a file that are still to be fetched."""
        blob = self._blob(listing.repository, file.etag)
        part = part_of(blob)

        def looked() -> int:
            if blob.exists() or self._path(listing, file).exists():
                return 0
            return max(0, file.nbytes - (part.stat().st_size if part.exists() else 0))

        return self._patiently(listing.repository, file.name, looked)

    def fetch(self, listing: Listing, file: HubFile, advance: Advance) -> Path:
        """Have a file in the cache, with the hash that the hub says; its path in the snapshot.

        advance: called with the bytes that came; it may raise Stopped.
        """
        advance(0)
        path, blob = self._path(listing, file), self._blob(listing.repository, file.etag)
        if not path.exists() and not blob.exists():
            part = part_of(blob)
            self._patiently(
                listing.repository,
                file.name,
                lambda: self._fetch_part(listing, file, part, advance),
                lambda: part.stat().st_size if part.exists() else 0,
            )
        if not path.exists():
            self._patiently(listing.repository, file.name, lambda: self._link(blob, path))
        self._patiently(listing.repository, file.name, lambda: self._check(listing, file, path))
        return path

    def stop(self) -> None:
        """End what other threads do here, at their next step; a connection of this kind is of no more use."""
        self._stopping.set()

    def name_revision(self, listing: Listing) -> None:
        """Let the branch or tag that was asked for lead to the commit, as the library would."""
        if listing.revision != listing.commit:
            reference = self._folder(listing.repository) / "refs" / listing.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(listing.commit, encoding="utf-8")

    def _fetch_part(self, listing: Listing, file: HubFile, part: Path, advance: Advance) -> None:
        """From where an earlier attempt ended, into a file that gets its name last."""
        part.parent.mkdir(parents=True, exist_ok=True)
        with alone(part) as stream:
            start = stream.seek(0, os.SEEK_END)
            if start > file.nbytes:
                start = emptied(stream)
            if start < file.nbytes:
                self._stream(listing, file, stream, start, advance)
            stream.flush()
            os.fsync(stream.fileno())
        found = hub_hash(part, file)
        if found != file.etag:
            part.unlink()
            raise _wrong_hash(listing.repository, file, found, "what came was thrown away")
        part.replace(part.with_name(part.name.removesuffix(PART)))

    def _stream(
        self, listing: Listing, file: HubFile, stream: IO[bytes], start: int, advance: Advance
    ) -> None:
        """The bytes from `start` on. A token goes to the hub alone, not where it sends us to."""
        url = self._library.hf_hub_url(
            listing.repository, file.name, revision=listing.commit, endpoint=self._endpoint
        )
        headers = self._files.build_hf_headers(library_name="gemlet") | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        patience = self._files.constants.HF_HUB_DOWNLOAD_TIMEOUT
        with _asked(self._tools.get_session(), url, headers, patience) as (answer, pieces):
            if start and answer.status_code in (200, 416):  # it cannot go on there: from the beginning
                advance(-start)
                start = emptied(stream)
            self._tools.hf_raise_for_status(answer)
            for data in pieces():
                start += len(data)
                if start > file.nbytes:
                    emptied(stream)
                    raise _wrong_hash(listing.repository, file, "too many bytes", "they were thrown away")
                stream.write(data)
                stream.flush()  # this thread may end at any time
                advance(len(data))
        if start < file.nbytes:
            raise ConnectionError(f"it ended after {start} of {file.nbytes} bytes")

    def _link(self, blob: Path, path: Path) -> None:
        """The file's name in the snapshot, as the library makes it: a link, where there are links."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files._create_symlink(str(blob), str(path), new_blob=True)

    def _check(self, listing: Listing, file: HubFile, path: Path) -> None:
        """Whatever put it into the cache, it has to be what the hub has. A wrong file is set aside."""
        if path.stat().st_size == file.nbytes:
            found = hub_hash(path, file)
            if found == file.etag:
                return
        else:
            found = f"{path.stat().st_size} bytes"
        blob = path.resolve()
        aside = blob.with_name(blob.name + WRONG)
        blob.replace(aside)
        if path.is_symlink():
            path.unlink()
        raise _wrong_hash(listing.repository, file, found, f"the file was set aside as {aside}")

    def _blob(self, repository: str, etag: str) -> Path:
        return self._folder(repository) / "blobs" / etag

    def _path(self, listing: Listing, file: HubFile) -> Path:
        return self._folder(listing.repository) / "snapshots" / listing.commit / file.name

    def _folder(self, repository: str) -> Path:
        return self.cache / f"models--{repository.replace('/', '--')}"

    def _patiently(
        self, repository: str, what: str, work: Callable[[], T], came: Callable[[], int] = lambda: 0
    ) -> T:
        """Try again where that may help, a few times; typed errors for the rest.

        came: bytes that are there; the tries are counted anew where they became more.
        """
        tried, before = 0, came()
        while True:
            tried += 1
            try:
                return work()
            except (GemletError, Stopped):
                raise
            except Exception as error:
                if (now := came()) > before:
                    tried, before = 1, now
                pause = self._pause(error, tried)
                if tried == TRIES or pause is None:
                    raise self._told(repository, what, error) from error
            self._wait(pause)
            if self._stopping.is_set():
                raise Stopped

    def _pause(self, error: Exception, tried: int) -> float | None:
        """Seconds to wait before the next attempt; None where none can help."""
        status = _status(error)
        if status is None:
            lost = not isinstance(error, (OSError, ValueError)) or isinstance(
                error, ConnectionError | TimeoutError
            )
            gone = isinstance(error, (self._errors.EntryNotFoundError, self._errors.OfflineModeIsEnabled))
            return float(2**tried) if lost and not gone else None
        if status == 429 or status >= 500:
            asked = _retry_after(error)
            return None if asked is not None and asked > PATIENCE else asked or float(2**tried)
        return None

    def _told(self, repository: str, what: str, error: Exception) -> GemletError:
        """The error as the person is told it, with the next step."""
        errors, status, page = self._errors, _status(error), f"https://huggingface.co/{repository}"
        if isinstance(error, errors.OfflineModeIsEnabled):
            return DownloadError(f"{repository}: the network is switched off", hint="unset HF_HUB_OFFLINE")
        if isinstance(error, errors.GatedRepoError) or (
            status in (401, 403) and not isinstance(error, errors.RepositoryNotFoundError)
        ):
            return self._gated(repository, status, page)
        if isinstance(error, errors.RevisionNotFoundError):
            hint = f"its branches, tags and commits are listed at {page}/commits"
            return ModelNotFoundError(f"{repository}: it has no revision {what!r}", hint=hint)
        if isinstance(error, errors.EntryNotFoundError):
            return ModelNotFoundError(f"{repository}: it has no file {what!r}", hint=f"see {page}/tree/main")
        if isinstance(error, errors.RepositoryNotFoundError):
            hint = "check the spelling; a private one needs a token: hf auth login, or the variable HF_TOKEN"
            return ModelNotFoundError(f"{repository}: the hub knows no such repository", hint=hint)
        if status == 429:
            asked = _retry_after(error)
            when = f" for {asked:.0f} s" if asked else ""
            hint = f"wait{when} and run it again; with a token (HF_TOKEN) more is allowed"
            return DownloadError(f"{repository}: the hub takes no more requests now (429)", hint=hint)
        if status is not None:
            hint = "run it again later: what has come is kept"
            return DownloadError(f"{repository}: the hub answers {what!r} with {status}", hint=hint)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "make room, or let HF_HOME name a folder on another disk; what has come is kept"
            return DownloadError(
                f"{repository}: there is no space left for {what!r} in {self.cache}", hint=hint
            )
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            hint = "HF_HOME names another folder"
            return DownloadError(f"{repository}: {self.cache} cannot be written", hint=hint)
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        hint = "check the connection and run it again: what has come is kept"
        return DownloadError(f"{repository}: {what!r} did not come whole: {reason}", hint=hint)

    def _gated(self, repository: str, status: int | None, page: str) -> LicenceError:
        if self._library.get_token() is None:
            hint = (
                f"1. log in at huggingface.co and accept the terms at {page}\n"
                "2. make a token that may read gated repositories at https://huggingface.co/settings/tokens\n"
                "3. hf auth login (or set HF_TOKEN), then run this again"
            )
            return LicenceError(f"{repository}: it is gated, and there is no token here", hint=hint)
        if status == 401:
            hint = "make a new one at https://huggingface.co/settings/tokens, then: hf auth login"
            return LicenceError(f"{repository}: the hub does not take the token", hint=hint)
        hint = (
            f"accept the terms at {page} with the account that the token belongs to, and let the token read "
            "gated repositories (https://huggingface.co/settings/tokens), then run this again"
        )
        return LicenceError(f"{repository}: the account has not accepted its terms on the hub", hint=hint)


@contextmanager
def _asked(session: Any, url: str, headers: dict[str, str], patience: float) -> Any:
    """The answer and its bytes, piece by piece; of the library's session now (httpx) or before (requests)."""
    if callable(session.stream):
        with session.stream("GET", url, headers=headers, timeout=patience, follow_redirects=True) as answer:
            yield answer, answer.iter_bytes
        return
    with session.get(url, headers=headers, timeout=patience, stream=True) as answer:
        yield answer, lambda: answer.iter_content(PIECE)


def _file(repository: str, sibling: Any) -> HubFile:
    """A file of the hub's list. Its name and hashes become paths here, so that they are looked at first."""
    name, lfs = sibling.rfilename, sibling.lfs
    file = HubFile(name, int(sibling.size or 0), lfs.sha256 if lfs else None, sibling.blob_id)
    inside = name and not name.startswith("/") and not {"", ".", ".."} & set(re.split(r"[/\\]", name))
    if not inside or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", file.etag or ""):
        hint = "another hub (HF_ENDPOINT) may tell more"
        raise DownloadError(f"{repository}: the hub lists {name!r} with no hash or no name", hint=hint)
    return file


def hub_hash(path: Path, file: HubFile) -> str:
    """Of a file that is here, in the kind that the hub knows of it."""
    return file_sha256(path) if file.sha256 else _git_sha1(path)


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _retry_after(error: Exception) -> float | None:
    headers: Any = getattr(getattr(error, "response", None), "headers", {})
    with suppress(TypeError, ValueError):
        return max(0.0, float(headers.get("Retry-After")))
    return None


def _wrong_hash(repository: str, file: HubFile, found: str, what_happened: str) -> DownloadError:
    expected = file.etag
    return DownloadError(
        f"{repository}: {file.name} has the wrong hash: {found}, the hub says {expected}",
        hint=f"{what_happened}; run the same command again",
    )
