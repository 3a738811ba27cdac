"""Downloading a model: which files of its repository, under which terms, and whether they are right."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from gemlet.errors import DownloadError, InvalidRequestError, LicenceError, ModelNotFoundError
from gemlet.formats.files import file_sha256
from gemlet.provenance.licences import Licence, find_licence
from gemlet.provenance.releases import REPOSITORIES, by_file
from gemlet.store.acceptance import accept, accepted
from gemlet.store.choose_files import choose_files
from gemlet.store.hub import Hub, HubFile, Listing, Stopped, hub_hash
from gemlet.store.hub_cache import check_complete, expanded, find_snapshot
from gemlet.store.references import NAMES, Reference, parse_reference
from gemlet.store.settings import read_settings

WORKERS = 4
"""Files that come at once."""

MOMENT = 0.5
"""Seconds that a thread is waited for when all are stopped."""

ROOM = 64 << 20
"""Bytes that stay free on the disk."""

Progress = Callable[[int, int], None]
Consent = Callable[[Licence, str], bool]


@dataclass(frozen=True)
class PulledFile:
    """A file that is here now, as the hub has it. `verdict`: "known" where it is the published file that
    gemlet knows, "other" where that has another hash, "hub" where none is known, "unchecked" where neither
    gemlet nor the cache knows a hash.
    """

    name: str
    path: str
    nbytes: int
    sha256: str
    verdict: str


@dataclass(frozen=True)
class Pulled:
    """A download: where it lies, what of it was fetched just now (bytes), and each file's verdict.

    asked: whether the hub was; False where the network is switched off and all was here.
    """

    reference: str
    repository: str
    commit: str
    path: str
    licence: str | None
    fetched_bytes: int
    files: tuple[PulledFile, ...]
    asked: bool = True


def pull(
    reference: str,
    *,
    consent: Consent | None = None,
    progress: Progress | None = None,
    environ: Mapping[str, str] = os.environ,
    hub: Hub | None = None,
) -> tuple[Pulled, ...]:
    """Have a model, and the adapter named with it, in the Hugging Face cache.

    consent: asked for terms with restrictions, or that gemlet does not know, which were not accepted on this
    machine; their acceptance is recorded. progress: called with the bytes that came and those that are to
    come in all. Offline, what is here whole is enough; its hashes are compared all the same.

    Raises LicenceError for terms that are not accepted, here or on the hub, ModelNotFoundError,
    DownloadError, InvalidRequestError for what cannot be downloaded, MissingExtraError without the extra.
    KeyboardInterrupt stops it; what has come is kept, and the next call goes on with it.
    """
    wanted = [parse_reference(reference)]
    if (adapter := wanted[0].adapter) is not None and not expanded(adapter).exists():
        wanted.append(parse_reference(adapter))
    targets = [(*_repository(one), one) for one in wanted]
    if switch := _offline(environ):
        return tuple(_here(name, one, reference, switch, environ) for name, _, one in targets)
    hub = hub or Hub()
    listings = [(hub.listing(name, revision), one) for name, revision, one in targets]
    chosen = [(listing, choose_files(listing, one.file)) for listing, one in listings]
    for listing, _ in chosen:
        _need_terms(listing, consent, environ)
    return tuple(_fetch(hub, listing, files, reference, progress) for listing, files in chosen)


def _repository(reference: Reference) -> tuple[str, str | None]:
    if reference.kind == "name" and reference.target in NAMES:
        return NAMES[reference.target], reference.revision
    if reference.kind == "repository":
        return reference.target, reference.revision
    if reference.kind == "name":
        hint = f"known names: {', '.join(NAMES)}; any other is org/repo[:file-or-quant][@revision]"
        raise ModelNotFoundError(f"there is no model named {reference.target!r} to download", hint=hint)
    raise InvalidRequestError(f"{reference}: only a name or org/repo can be downloaded")


def _offline(environ: Mapping[str, str]) -> str | None:
    """What switches the network off, as a person sets it; None where nothing does."""
    if read_settings({}, environ)["offline"].value:
        return "gemlet config set offline false"
    if environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "unset HF_HUB_OFFLINE"
    return None


def _here(
    repository: str, wanted: Reference, reference: str, switch: str, environ: Mapping[str, str]
) -> Pulled:
    """A model that came before, whole and with the hub's hashes, which the cache keeps files under."""

    def missing(problem: str) -> DownloadError:
        hint = f"{switch}, then run it again"
        return DownloadError(f"{repository}: the network is switched off, and {problem}", hint=hint)

    try:
        snapshot = find_snapshot(repository, wanted.revision, environ)
        listing = _listing_of(repository, snapshot)
        files = choose_files(listing, wanted.file)
        if any(file.name.startswith("model") and ".safetensors" in file.name for file in files):
            check_complete(snapshot, repository)
    except ModelNotFoundError as error:
        raise missing(error.message.removeprefix(f"{repository}: ")) from None
    pulled = []
    for file in files:
        path = snapshot / file.name
        if not path.exists():
            raise missing(f"its {file.name} is not here")
        if file.etag and hub_hash(path, file) != file.etag:
            raise missing(f"{file.name} has the wrong hash")
        pulled.append(_judged(repository, file, path, "hub" if file.etag else "unchecked"))
    single = next((snapshot / file.name for file in files if file.name.endswith(".gguf")), snapshot)
    return Pulled(reference, repository, snapshot.name, str(single), None, 0, tuple(pulled), asked=False)


def _listing_of(repository: str, snapshot: Path) -> Listing:
    """What is here of a repository; a link's target is named by the hash that the hub says."""
    files = []
    for path in sorted(path for path in snapshot.rglob("*") if not path.is_dir()):
        etag = path.resolve().name if path.is_symlink() else ""
        sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None
        sha1 = etag if re.fullmatch(r"[0-9a-f]{40}", etag) else ""
        size = path.stat().st_size if path.exists() else 0
        files.append(HubFile(path.relative_to(snapshot).as_posix(), size, sha256, sha1))
    return Listing(repository, snapshot.name, snapshot.name, tuple(files), None)


def _need_terms(listing: Listing, consent: Consent | None, environ: Mapping[str, str]) -> None:
    """LicenceError unless terms that restrict, or that are not known, are accepted."""
    known = REPOSITORIES.get(listing.repository)
    named = known.licence if known is not None else listing.licence
    licence = None if named is None else find_licence(named) or _unknown_licence(listing, named)
    if licence is None or not (licence.policy or licence.commercial is not True):
        return
    if accepted(licence, environ):
        return
    if consent is None or not consent(licence, listing.repository):
        hint = f"read them at {licence.url}, then: gemlet pull --accept-licence {listing.repository}"
        raise LicenceError(f"{listing.repository}: the {licence.name} are not accepted", hint=hint)
    accept(licence, listing.repository, environ)


def _unknown_licence(listing: Listing, named: str) -> Licence:
    """Terms of which only what the card says of them is known; accepted for this repository alone."""
    page = f"https://huggingface.co/{listing.repository}"
    link = listing.licence_link or ""
    url = link if re.match(r"https?://", link) else f"{page}/blob/main/{link}" if link else page
    name = listing.licence_name or ("own terms of the repository" if named == "other" else named)
    summary = ("gemlet does not know these terms: read them before you use the model.",)
    return Licence(f"{named}@{listing.repository}", f"terms {name!r}", None, url, summary, commercial=None)


def _fetch(
    hub: Hub, listing: Listing, files: list[HubFile], reference: str, progress: Progress | None
) -> Pulled:
    total = sum(hub.missing(listing, file) for file in files)
    _need_room(hub.cache, total)
    counter = _Counter(total, progress)
    paths = _side_by_side(
        [lambda file=file: hub.fetch(listing, file, counter.add) for file in files],  # type: ignore[misc]
        [counter.stop, hub.stop],
    )
    hub.name_revision(listing)
    pulled = tuple(_judged(listing.repository, file, path) for file, path in zip(files, paths, strict=True))
    snapshot = _snapshot(files[0], paths[0])
    single = next((path for path in paths if path.suffix == ".gguf"), snapshot)
    return Pulled(reference, listing.repository, listing.commit, str(single), listing.licence, total, pulled)


def _side_by_side(work: Sequence[Callable[[], Path]], stop: Sequence[Callable[[], None]]) -> list[Path]:
    """The results of all, a few at a time; the first error ends the others and is raised.

    So does Ctrl-C, which waits for no thread longer than a moment: one may hang in a connection.
    """
    waiting: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[tuple[int, Path | BaseException]] = SimpleQueue()
    for i in range(len(work)):
        waiting.put(i)

    def run() -> None:
        while True:
            try:
                i = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((i, work[i]()))
            except BaseException as error:
                done.put((i, error))
                return

    threads = [threading.Thread(target=run, name="gemlet-pull", daemon=True) for _ in work[:WORKERS]]
    found: dict[int, Path] = {}
    try:
        for thread in threads:
            thread.start()
        while len(found) < len(work):
            i, result = done.get()
            if isinstance(result, BaseException):
                raise result
            found[i] = result
    except BaseException:
        for end in stop:
            end()
        for thread in threads:
            thread.join(MOMENT)
        raise
    return [found[i] for i in range(len(work))]


def _judged(repository: str, file: HubFile, path: Path, otherwise: str = "hub") -> PulledFile:
    """The hub's hash was compared already; what gemlet knows of published files says more."""
    known = by_file(repository, file.name)
    sha256 = file.sha256 or file_sha256(path)
    verdict = otherwise if known is None else "known" if sha256 == known.sha256 else "other"
    return PulledFile(file.name, str(path), file.nbytes, sha256, verdict)


def _snapshot(file: HubFile, path: Path) -> Path:
    for _ in Path(file.name).parts:
        path = path.parent
    return path


def _need_room(cache: Path, nbytes: int) -> None:
    folder = cache
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if nbytes and free < nbytes + ROOM:
        hint = "make room (gemlet ls, gemlet rm), or let HF_HOME name a folder on another disk"
        raise DownloadError(
            f"{nbytes / 1e6:,.0f} MB are to come, and {cache} has {free / 1e6:,.0f} MB free", hint=hint
        )


class _Counter:
    """Bytes that came, from all files; `stop` ends them at their next piece."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0
        self._stopped = False

    def add(self, count: int) -> None:
        with self._lock:
            if self._stopped:
                raise Stopped
            self._done = min(self._total, self._done + count)
            if self._progress is not None and self._total:
                self._progress(self._done, self._total)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
