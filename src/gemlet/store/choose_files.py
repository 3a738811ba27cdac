"""Which files of a repository make a model that gemlet opens, and why the others do not."""

from __future__ import annotations

import re

from gemlet.errors import InvalidRequestError, ModelNotFoundError
from gemlet.store.hub import HubFile, Listing
from gemlet.store.hub_cache import fits_name

_CHECKPOINT = re.compile(
    r"(model.*\.safetensors|model\.safetensors\.index\.json|config\.json|generation_config\.json"
    r"|tokenizer\.(json|model)|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    r"|chat_template\.(json|jinja)|vocab\.json|merges\.txt)"
)
_ADAPTER = re.compile(r"adapter_(config\.json|model\.safetensors)|gemlet_manifest\.json")
_PAPERS = re.compile(r"(README|LICEN[SC]E|NOTICE|.*USE_POLICY)(\.(md|txt))?", re.IGNORECASE)
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.(gguf|safetensors)", re.IGNORECASE)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def choose_files(listing: Listing, file: str | None) -> list[HubFile]:
    """What gemlet needs of a repository: a checkpoint, an adapter or a GGUF file, with the papers beside it.

    file: a file's name, or a part such as Q4_0 that only one GGUF file's name has. Weights that need others
    (config.json, a tokenizer) bring them.
    Raises ModelNotFoundError where nothing fits, InvalidRequestError for a file that is no model or where
    several fit.
    """
    papers = [one for one in listing.files if _PAPERS.fullmatch(one.name)]
    names = {one.name for one in listing.files}
    gguf = [one for one in listing.files if one.name.lower().endswith(".gguf")]
    if file is None and "adapter_config.json" in names:
        return papers + [one for one in listing.files if _ADAPTER.fullmatch(one.name)]
    if file is None and "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return papers + [one for one in listing.files if _CHECKPOINT.fullmatch(one.name)]
    if file in names and not file.lower().endswith(".gguf"):
        return papers + _with_companions(listing, file)
    exact = [one for one in gguf if one.name == file]
    fitting = exact or [one for one in gguf if file is None or fits_name(file, one.name)]
    if len(fitting) == 1:
        if _SHARD.fullmatch(fitting[0].name):
            raise _no_model(
                listing, fitting[0].name, "is one part of a split GGUF file, which gemlet does not read"
            )
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
    if any(name.endswith(_PICKLES) for name in names):
        hint += "; its pickles (.bin, .pt, …) can run code when they are opened"
    raise ModelNotFoundError(f"{listing.repository}: it holds no weights that gemlet reads", hint=hint)


def _with_companions(listing: Listing, file: str) -> list[HubFile]:
    """The files of the checkpoint or adapter whose weights were named; InvalidRequestError for others."""
    names = {one.name for one in listing.files}
    if file == "adapter_model.safetensors" and "adapter_config.json" in names:
        return [one for one in listing.files if _ADAPTER.fullmatch(one.name)]
    if file == "model.safetensors" and "config.json" in names:
        return [
            one
            for one in listing.files
            if _CHECKPOINT.fullmatch(one.name) and (one.name == file or ".safetensors" not in one.name)
        ]
    if file.endswith(_PICKLES):
        raise _no_model(listing, file, "is a pickle, which can run code when it is opened")
    if _SHARD.fullmatch(file):
        raise _no_model(listing, file, "is one shard of a checkpoint")
    if file.endswith(".safetensors"):
        why = (
            "has no configuration beside it that says what it is"
            if "config.json" not in names
            else ("is not what its configuration goes with: that is model.safetensors")
        )
        raise _no_model(listing, file, why)
    raise _no_model(listing, file, "holds no weights")


def _no_model(listing: Listing, file: str, why: str) -> InvalidRequestError:
    hint = f"gemlet pull {listing.repository} downloads what gemlet reads of it, the small files too"
    return InvalidRequestError(f"{listing.repository}: {file} {why}", hint=hint)
