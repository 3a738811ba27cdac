"""Reading the Hugging Face cache folder where it lies: no network, no library, nothing copied."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from gemlet.errors import InvalidRequestError, ModelFileError, ModelNotFoundError
from gemlet.formats.files import read_json

INDEX = "model.safetensors.index.json"


def hub_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that Hugging Face tools keep downloads in, by their own variables."""
    if environ.get("HF_HUB_CACHE"):
        return expanded(environ["HF_HUB_CACHE"])
    if environ.get("HF_HOME"):
        return expanded(environ["HF_HOME"]) / "hub"
    return expanded(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def expanded(path: str) -> Path:
    """A path with its ~ replaced; as it is where nobody has that home."""
    return Path(os.path.expanduser(path))


def find_in_hub_cache(
    repository: str, file: str | None, revision: str | None, environ: Mapping[str, str] = os.environ
) -> Path:
    """The GGUF file, or the folder of a checkpoint, that a downloaded repository holds.

    file: a file's name, or a part such as Q4_0 that only one GGUF file's name has. revision: a branch or tag
    that was downloaded, or the beginning of a commit; the main branch by default.
    Raises ModelNotFoundError where it is not downloaded whole, InvalidRequestError where several files fit.
    """
    snapshot = find_snapshot(repository, revision, environ)
    if file is not None:
        return _named(snapshot, repository, file)
    if (snapshot / "config.json").exists() and any(snapshot.glob("*.safetensors*")):
        check_complete(snapshot, repository)
        return snapshot
    files = _gguf_files(snapshot)
    if len(files) == 1:
        return files[0]
    if files:
        listed = ", ".join(str(path.relative_to(snapshot)) for path in files)
        hint = f"name one as {repository}:FILE; there is {listed}"
        raise InvalidRequestError(f"{repository} holds {len(files)} models", hint=hint)
    raise _missing(repository, "what is downloaded of it holds no weights")


def find_snapshot(repository: str, revision: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that a downloaded repository lies in, as it is. ModelNotFoundError."""
    root = hub_cache_dir(environ) / f"models--{repository.replace('/', '--')}"
    snapshots = root / "snapshots"
    commits = sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []
    if not commits:
        raise _missing(repository, "it is not downloaded")
    wanted = revision or "main"
    reference = root / "refs" / wanted
    commit = reference.read_text().strip() if reference.is_file() else wanted
    fitting = [name for name in commits if name == commit]
    if not fitting and re.fullmatch(r"[0-9a-f]{7,40}", commit):
        fitting = [name for name in commits if name.startswith(commit)]
    if not fitting and revision is None and len(commits) == 1:
        fitting = commits  # downloaded by its commit, so that no branch points to it
    if len(fitting) != 1:
        raise _missing(repository, f"its revision {wanted!r} is not downloaded")
    return snapshots / fitting[0]


def _named(snapshot: Path, repository: str, file: str) -> Path:
    exact = snapshot / file
    if file == "model.safetensors" and exact.is_file():
        return snapshot  # weights alone are no model
    if exact.is_file():
        return exact
    files = _gguf_files(snapshot)
    fitting = [path for path in files if fits_name(file, path.name)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(str(path.relative_to(snapshot)) for path in files) or "no GGUF file"
    if fitting:
        hint = f"there is {listed}"
        raise InvalidRequestError(f"{repository}: {file!r} fits {len(fitting)} files", hint=hint)
    raise _missing(repository, f"{file!r} is not among what is downloaded: {listed}")


def fits_name(part: str, name: str) -> bool:
    """Whether a GGUF file's name has this part, such as Q4_0, as a word of its own."""
    pattern = rf"(?<![a-z0-9]){re.escape(part.lower())}(?![a-z0-9_])"
    return re.search(pattern, name.lower().removesuffix(".gguf")) is not None


def _gguf_files(snapshot: Path) -> list[Path]:
    return sorted(path for path in snapshot.rglob("*.gguf") if path.is_file())


def check_complete(snapshot: Path, repository: str) -> None:
    """ModelNotFoundError when a shard that the index lists is not there."""
    names = {"model.safetensors"}
    if (snapshot / INDEX).exists():
        shards = read_json(snapshot / INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise ModelFileError(snapshot / INDEX, "weight_map", "is not an object")
        names = {str(name) for name in shards.values()}
    missing = [name for name in sorted(names) if not (snapshot / name).is_file()]
    if missing:
        raise _missing(repository, f"its download is not complete: {missing[0]} is missing")


def _missing(repository: str, problem: str) -> ModelNotFoundError:
    hint = f"gemlet pull {repository}"
    return ModelNotFoundError(f"{repository}: {problem}", hint=hint)
