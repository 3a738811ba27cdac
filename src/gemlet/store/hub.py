"""The Hugging Face hub: what a repository holds, and its files, fetched into the library's own cache.

huggingface_hub does the talking; a large file that was cut off is gone on with where it ended, also by a
later run, which the library does not do.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from gemlet.errors import DownloadError, GemletError, LicenceError, MissingExtraError, ModelNotFoundError
from gemlet.formats.files import file_sha256

TRIES = 4
"""Attempts where the hub is busy, in trouble, or cut off."""

PATIENCE = 60.0
"""Seconds at most that the hub may ask to wait before another attempt."""

LARGE = 8 << 20
"""Bytes from which on a file is fetched in a way that can be gone on with."""

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
    git_sha1: str | None

    @property
    def etag(self) -> str | None:
        """The name that the cache keeps it under."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class Listing:
    """A revision of a repository: its commit, files, and the licence that its card names."""

    repository: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str | None


class Hub:
    """A connection. Raises MissingExtraError without huggingface_hub, and typed errors for all that fails.

    endpoint, cache: another hub, another folder, than the library's own variables say.
    """

    def __init__(
        self,
        wait: Callable[[float], None] = time.sleep,
        endpoint: str | None = None,
        cache: Path | None = None,
    ) -> None:
        try:
            self._library: Any = importlib.import_module("huggingface_hub")
        except ImportError:
            raise MissingExtraError("downloading models", "hub") from None
        self._errors: Any = importlib.import_module("huggingface_hub.errors")
        self._files: Any = importlib.import_module("huggingface_hub.file_download")
        self._wait = wait
        constants = importlib.import_module("huggingface_hub.constants")
        self._endpoint = endpoint or constants.ENDPOINT
        self.cache = cache or Path(constants.HF_HUB_CACHE)
        """The folder that downloads lie in."""
        own = importlib.import_module("huggingface_hub.utils")
        own.disable_progress_bars()
        own.logging.set_verbosity_error()

    def listing(self, repository: str, revision: str | None) -> Listing:
        """What a revision holds; the main branch by default."""
        api = self._library.HfApi(endpoint=self._endpoint, library_name="gemlet")
        wanted = revision or "main"
        info = self._patiently(
            repository, wanted, lambda: api.model_info(repository, revision=wanted, files_metadata=True)
        )
        files = tuple(_file(sibling) for sibling in info.siblings or ())
        card = info.card_data.to_dict() if info.card_data else {}
        licence = card.get("license")
        return Listing(repository, wanted, info.sha, files, licence if isinstance(licence, str) else None)

    def missing(self, listing: Listing, file: HubFile) -> int:
        """Bytes of a file that are still to be fetched."""
        if file.etag is None:
            return file.nbytes
        blob = self._blob(listing.repository, file.etag)
        if blob.exists():
            return 0
        part = _part(blob)
        return max(0, file.nbytes - (part.stat().st_size if part.exists() else 0))

    def fetch(self, listing: Listing, file: HubFile, advance: Advance) -> Path:
        """Have a file in the cache, with the hash that the hub says; its path in the snapshot.

        advance: called with the bytes that came; it may raise Stopped.
        """
        repository = listing.repository
        if file.etag is not None and not self._blob(repository, file.etag).exists() and file.nbytes >= LARGE:
            self._patiently(repository, file.name, lambda: self._fetch_large(listing, file, advance))
        elif self.missing(listing, file):
            advance(0)
        before = self.missing(listing, file)
        path = Path(
            self._patiently(
                repository,
                file.name,
                lambda: self._library.hf_hub_download(
                    repository,
                    file.name,
                    revision=listing.commit,
                    cache_dir=self.cache,
                    endpoint=self._endpoint,
                ),
            )
        )
        advance(before)
        self._check(listing, file, path)
        return path

    def name_revision(self, listing: Listing) -> None:
        """Let the branch or tag that was asked for lead to the commit, as the library would."""
        if listing.revision != listing.commit:
            reference = self._folder(listing.repository) / "refs" / listing.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(listing.commit, encoding="utf-8")

    def _fetch_large(self, listing: Listing, file: HubFile, advance: Advance) -> None:
        """From where an earlier attempt ended, into a file that gets its name last."""
        assert file.etag is not None
        blob = self._blob(listing.repository, file.etag)
        part = _part(blob)
        part.parent.mkdir(parents=True, exist_ok=True)
        url = self._library.hf_hub_url(
            listing.repository, file.name, revision=listing.commit, endpoint=self._endpoint
        )
        headers = self._files.build_hf_headers(library_name="gemlet")
        metadata = self._library.get_hf_file_metadata(url, headers=headers)
        location = metadata.location
        if _host(location) != _host(url):  # a signed address elsewhere: the token is not for it
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        with _alone(part) as stream:
            counted = _Counted(stream, advance)
            start = stream.seek(0, os.SEEK_END)
            if start > file.nbytes:
                stream.truncate(0)
                start = 0
            if start < file.nbytes:
                self._files.http_get(
                    location, counted, headers=headers, resume_size=start, expected_size=file.nbytes
                )
            stream.flush()
            os.fsync(stream.fileno())
        found = file_sha256(part)
        if file.sha256 is not None and found != file.sha256:
            part.unlink()
            raise _wrong_hash(listing.repository, file, found, "what came was thrown away")
        part.replace(blob)

    def _check(self, listing: Listing, file: HubFile, path: Path) -> None:
        """Whatever put it into the cache, it has to be what the hub has. A wrong file is set aside."""
        if path.stat().st_size == file.nbytes:
            found = file_sha256(path) if file.sha256 else _git_sha1(path)
            if found == (file.sha256 or file.git_sha1 or found):
                return
        else:
            found = f"{path.stat().st_size} bytes"
        blob = path.resolve()
        aside = blob.with_name(blob.name + ".wrong")
        blob.replace(aside)
        if path.is_symlink():
            path.unlink()
        raise _wrong_hash(listing.repository, file, found, f"the file was set aside as {aside}")

    def _blob(self, repository: str, etag: str) -> Path:
        return self._folder(repository) / "blobs" / etag

    def _folder(self, repository: str) -> Path:
        return self.cache / f"models--{repository.replace('/', '--')}"

    def _patiently(self, repository: str, what: str, work: Callable[[], T]) -> T:
        """Try again where that may help, a few times; typed errors for the rest."""
        for tried in range(1, TRIES + 1):
            try:
                return work()
            except (GemletError, Stopped):
                raise
            except Exception as error:
                pause = self._pause(error, tried)
                if tried == TRIES or pause is None:
                    raise self._told(repository, what, error) from error
            self._wait(pause)
        raise AssertionError("unreachable")

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


class _Counted:
    """A file that tells what is written to it."""

    def __init__(self, stream: IO[bytes], advance: Advance) -> None:
        self._stream = stream
        self._advance = advance

    def write(self, data: bytes) -> int:
        count = self._stream.write(data)
        self._advance(count)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _alone(part: Path) -> Any:
    """The partial file, for one process at a time."""
    with part.open("r+b" if part.exists() else "w+b") as stream:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "wait for it: it fetches the same file"
                raise DownloadError("another gemlet pull is at work", hint=hint) from None
        yield stream


def _part(blob: Path) -> Path:
    return blob.with_name(blob.name + ".gemlet.part")


def _file(sibling: Any) -> HubFile:
    lfs = sibling.lfs
    return HubFile(sibling.rfilename, int(sibling.size or 0), lfs.sha256 if lfs else None, sibling.blob_id)


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _host(url: str) -> str:
    return url.split("://", 1)[-1].split("/", 1)[0]


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
    expected = file.sha256 or file.git_sha1
    return DownloadError(
        f"{repository}: {file.name} has the wrong hash: {found}, the hub says {expected}",
        hint=f"{what_happened}; run the same command again",
    )
