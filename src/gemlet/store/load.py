"""`load`: from a model reference to an open `Model`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from gemlet.errors import ContextLengthError, InvalidRequestError, ModelFileError
from gemlet.infer.chat import Model
from gemlet.model.decoder import Decoder
from gemlet.model.head import use_sketch
from gemlet.model.weights import Loaded, packed_path
from gemlet.model.weights import load as load_model
from gemlet.store.references import resolve
from gemlet.store.settings import cache_dir, read_settings
from gemlet.text.template import template_sha256
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import Manifest
from gemlet.version import __version__

Progress = Callable[[int, int], None]

SAMPLES = Path(__file__).with_name("samples.txt")
"""Texts of many kinds, which the sketch of a head is fitted to."""

MAX_THREADS = 256
"""What the native library takes."""


def load(
    ref: str | os.PathLike[str] | None = None,
    *,
    weights: str | None = "auto",
    context: int | None = None,
    threads: int | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> Model:
    """Open a model.

    ref: NAME, PATH or org/repo[:file-or-quant][@revision]; None for the default: GEMLET_MODEL, the
    configuration file, gemma-3-1b-it where it is on this machine, else the embedded model, as `notices` say.
    weights: "auto" (as stored; a bf16 checkpoint as int8), "stored", "bf16", "int8" or "int4". context:
    positions a request may take, at most and by default the model's own. threads: by default chosen from
    the machine. Of these three, None takes what the settings say. offline: changes nothing yet, since nothing
    is downloaded here. progress: called with the bytes done and in all while weights are prepared, once.

    Raises ModelNotFoundError with the next step, ModelFileError naming file and field, InvalidRequestError,
    UnsupportedParameterError for adapters and endpoints, ContextLengthError for a context the model lacks.
    """
    _check_arguments(ref, context, threads, offline)
    settings = read_settings()
    weights = weights or cast(str, settings["weights"].value)
    limit = context or cast("int | None", settings["context"].value)
    threads = threads or cast("int | None", settings["threads"].value)
    if threads is not None and threads > MAX_THREADS:
        raise InvalidRequestError(f"threads must be at most {MAX_THREADS}, not {threads}")
    found = resolve(None if ref is None else os.fspath(ref), progress=progress)
    loaded = load_model(found.path, weights, cache_dir=cache_dir(), progress=progress)
    config = loaded.facts.config
    if limit is not None and limit > config.context_length:
        hint = f"the model was made for {config.context_length} tokens: ask for a context of at most as many"
        raise ContextLengthError(limit, config.context_length, hint=hint)
    tokenizer = Tokenizer.from_source(loaded.facts.tokenizer, cache_dir())
    if tokenizer.vocab_size < config.vocab_size:
        problem = f"has {tokenizer.vocab_size} pieces, the embedding has {config.vocab_size} rows"
        raise ModelFileError(loaded.facts.tokenizer.path, "vocabulary", problem)
    decoder = Decoder(config, loaded.weights, threads=threads)
    note = _sketch_head(decoder, loaded, tokenizer, weights)
    return Model(
        decoder,
        tokenizer,
        manifest=_manifest(found.reference, loaded, tokenizer, decoder),
        sampling=loaded.facts.sampling,
        has_chat_format=loaded.facts.chat_template is not None,
        context=limit,
        reference=found.reference,
        notices=(*found.notices, *loaded.facts.corrections, *loaded.notes, *note),
    )


def _sketch_head(decoder: Decoder, loaded: Loaded, tokenizer: Tokenizer, weights: str) -> tuple[str, ...]:
    """Make tokens cheaper where only the largest logits are needed; takes seconds, once a model."""
    packed = packed_path(loaded.facts.path, weights, cache_dir())
    ids = tokenizer.encode(SAMPLES.read_text(encoding="utf-8"), bos=True)
    note = use_sketch(decoder, loaded.weights, ids, packed.with_suffix(".head"))
    return () if note is None else (note,)


def _manifest(reference: str, loaded: Loaded, tokenizer: Tokenizer, decoder: Decoder) -> Manifest:
    return Manifest(
        model=reference,
        weights_sha256=loaded.weights.sha256,
        tokenizer_sha256=tokenizer.sha256,
        template_sha256=template_sha256(base=loaded.facts.chat_template is None),
        adapter_sha256=None,
        weights_type=loaded.weights.weights_type,
        activation_type=decoder.activation_type,
        kv_type=decoder.cache_type,
        embedding_scale=loaded.facts.config.embedding_scale,
        instruction_set=decoder.instruction_set,
        engine_version=__version__,
    )


def _check_arguments(ref: object, context: object, threads: object, offline: object) -> None:
    if ref is not None and not isinstance(ref, (str, os.PathLike)):
        raise InvalidRequestError(f"ref must be text, not {type(ref).__name__}")
    for name, value in (("context", context), ("threads", threads)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidRequestError(f"{name} must be a whole number from 1, not {value!r}")
    if offline is not None and not isinstance(offline, bool):
        raise InvalidRequestError(f"offline must be true, false or None, not {offline!r}")
