"""Downloading a model: which files of its repository, under which terms, and whether they are right."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from gemlet.errors import DownloadError, InvalidRequestError, LicenceError, ModelNotFoundError
from gemlet.formats.files import file_sha256
from gemlet.provenance.licences import Licence, find_licence
from gemlet.provenance.releases import REPOSITORIES, by_file
from gemlet.store.acceptance import accept, accepted
from gemlet.store.hub import Hub, HubFile, Listing, Stopped
from gemlet.store.hub_cache import expanded, fits_name
from gemlet.store.references import NAMES, Reference, parse_reference
from gemlet.store.settings import read_settings

WORKERS = 4
"""Files that come at once."""

ROOM = 64 << 20
"""Bytes that stay free on the disk."""

_CHECKPOINT = re.compile(
    r"(model.*\.safetensors|model\.safetensors\.index\.json|config\.json|generation_config\.json"
    r"|tokenizer\.(json|model)|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|chat_template\.(json|jinja)|vocab\.json|merges\.txt)"
)
_ADAPTER = re.compile(r"adapter_(config\.json|model\.safetensors)|gemlet_manifest\.json")
_PAPERS = re.compile(r"(README|LICEN[SC]E|NOTICE|.*USE_POLICY)(\.(md|txt))?", re.IGNORECASE)

Progress = Callable[[int, int], None]
Consent = Callable[[Licence, str], bool]


@dataclass(frozen=True)
class PulledFile:
    """A file that is here now, as the hub has it. `verdict`: "known" where it is the published file that
    gemlet knows, "other" where that has another hash, "hub" where none is known.
    """

    name: str
    path: str
    nbytes: int
    sha256: str
    verdict: str


@dataclass(frozen=True)
class Pulled:
    """A download: where it lies, what of it was fetched just now (bytes), and each file's verdict."""

    reference: str
    repository: str
    commit: str
    path: str
    licence: str | None
    fetched_bytes: int
    files: tuple[PulledFile, ...]


def pull(
    reference: str,
    *,
    consent: Consent | None = None,
    progress: Progress | None = None,
    environ: Mapping[str, str] = os.environ,
    hub: Hub | None = None,
) -> tuple[Pulled, ...]:
    """Have a model, and the adapter named with it, in the Hugging Face cache.

    consent: asked for terms with use restrictions that were not accepted on this machine; their acceptance is
    recorded. progress: called with the bytes that came and those that are to come in all.

    Raises LicenceError for terms that are not accepted, here or on the hub, ModelNotFoundError,
    DownloadError, InvalidRequestError for what cannot be downloaded, MissingExtraError without the extra.
    KeyboardInterrupt stops it; what has come is kept, and the next call goes on with it.
    """
    if read_settings({}, environ)["offline"].value:
        raise DownloadError("gemlet is set to be offline", hint="gemlet config set offline false")
    wanted = [parse_reference(reference)]
    if (adapter := wanted[0].adapter) is not None and not expanded(adapter).exists():
        wanted.append(parse_reference(adapter))
    targets = [(*_repository(one), one) for one in wanted]
    hub = hub or Hub()
    listings = [(hub.listing(name, revision), one) for name, revision, one in targets]
    chosen = [(listing, choose_files(listing, one.file)) for listing, one in listings]
    for listing, _ in chosen:
        _need_terms(listing, consent, environ)
    return tuple(_fetch(hub, listing, files, reference, progress) for listing, files in chosen)


def choose_files(listing: Listing, file: str | None) -> list[HubFile]:
    """What gemlet needs of a repository: a checkpoint, an adapter or a GGUF file, with the papers beside it.

    file: a file's name, or a part such as Q4_0 that only one GGUF file's name has.
    """
    papers = [one for one in listing.files if _PAPERS.fullmatch(one.name)]
    names = {one.name for one in listing.files}
    gguf = [one for one in listing.files if one.name.lower().endswith(".gguf")]
    if file is None and "adapter_config.json" in names:
        return papers + [one for one in listing.files if _ADAPTER.fullmatch(one.name)]
    if file is None and "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return papers + [one for one in listing.files if _CHECKPOINT.fullmatch(one.name)]
    exact = [one for one in listing.files if one.name == file]
    fitting = exact or [one for one in gguf if file is None or fits_name(file, one.name)]
    if len(fitting) == 1:
        return [*papers, fitting[0]]
    listed = "\n".join(f"  {listing.repository}:{one.name}  {one.nbytes / 1e6:,.0f} MB" for one in gguf)
    if fitting:
        raise InvalidRequestError(
            f"{listing.repository} holds {len(fitting)} fitting models", hint=f"name one:\n{listed}"
        )
    if file is not None:
        hint = f"there is:\n{listed}" if listed else "it holds no GGUF file"
        raise ModelNotFoundError(f"{listing.repository}: it has no file {file!r}", hint=hint)
    hint = "gemlet reads safetensors checkpoints, GGUF files and PEFT adapters"
    raise ModelNotFoundError(f"{listing.repository}: it holds no weights that gemlet reads", hint=hint)


def _repository(reference: Reference) -> tuple[str, str | None]:
    if reference.kind == "name" and reference.target in NAMES:
        return NAMES[reference.target], reference.revision
    if reference.kind == "repository":
        return reference.target, reference.revision
    if reference.kind == "name":
        hint = f"known names: {', '.join(NAMES)}; any other is org/repo[:file-or-quant][@revision]"
        raise ModelNotFoundError(f"there is no model named {reference.target!r} to download", hint=hint)
    raise InvalidRequestError(f"{reference}: only a name or org/repo can be downloaded")


def _need_terms(listing: Listing, consent: Consent | None, environ: Mapping[str, str]) -> None:
    """LicenceError unless terms with use restrictions are accepted."""
    known = REPOSITORIES.get(listing.repository)
    named = known.licence if known is not None else listing.licence
    licence = find_licence(named) if named else None
    if licence is None or licence.policy is None or accepted(licence, environ):
        return
    if consent is None or not consent(licence, listing.repository):
        hint = f"read them at {licence.url}, then: gemlet pull --accept-licence {listing.repository}"
        raise LicenceError(f"{listing.repository}: the {licence.name} are not accepted", hint=hint)
    accept(licence, listing.repository, environ)


def _fetch(
    hub: Hub, listing: Listing, files: list[HubFile], reference: str, progress: Progress | None
) -> Pulled:
    total = sum(hub.missing(listing, file) for file in files)
    _need_room(hub.cache, total)
    counter = _Counter(total, progress)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="gemlet-pull") as pool:
        try:
            coming = [pool.submit(hub.fetch, listing, file, counter.add) for file in files]
            done, _ = wait(coming, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt:
            counter.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        if failed := [future for future in done if future.exception() is not None]:
            counter.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            error = next((e for e in (f.exception() for f in failed) if not isinstance(e, Stopped)), None)
            raise error or DownloadError(f"{listing.repository}: the download was stopped")
    hub.name_revision(listing)
    paths = [future.result() for future in coming]
    pulled = tuple(_judged(listing.repository, file, path) for file, path in zip(files, paths, strict=True))
    snapshot = _snapshot(files[0], paths[0])
    single = next((path for path in paths if path.suffix == ".gguf"), snapshot)
    return Pulled(reference, listing.repository, listing.commit, str(single), listing.licence, total, pulled)


def _judged(repository: str, file: HubFile, path: Path) -> PulledFile:
    """The hub's hash was compared already; what gemlet knows of published files says more."""
    known = by_file(repository, file.name)
    sha256 = file.sha256 or file_sha256(path)
    verdict = "hub" if known is None else "known" if sha256 == known.sha256 else "other"
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
