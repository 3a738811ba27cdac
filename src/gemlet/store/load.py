"""`load`: from a model reference to an open `Model`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from gemlet.errors import ContextLengthError, InvalidRequestError, ModelFileError
from gemlet.infer.cache import PageFiles
from gemlet.infer.chat import Model
from gemlet.infer.draft_model import DraftModel
from gemlet.infer.scheduler import Limits
from gemlet.infer.speculate import AdaptiveSpeculator
from gemlet.model.adapters import AdapterFile, read_adapter
from gemlet.model.config import ModelConfig
from gemlet.model.decoder import Decoder
from gemlet.model.defects import correct_stop_ids
from gemlet.model.families import FAMILIES
from gemlet.model.head import use_sketch
from gemlet.model.weights import Loaded, packed_path
from gemlet.model.weights import load as load_model
from gemlet.ops.sketch import Pieces
from gemlet.store.references import Found, resolve
from gemlet.store.remove import keep_within_limit, mark_used
from gemlet.store.settings import cache_dir, read_settings
from gemlet.text.byte_level import ByteLevelTokenizer
from gemlet.text.chat_template import ChatTemplate
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
    draft: str | os.PathLike[str] | bool | None = None,
    parallel: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Open a model.

    ref: NAME, PATH or org/repo[:file-or-quant][@revision], each with an optional +ADAPTER, a PEFT LoRA
    folder; None for the default: GEMLET_MODEL, the configuration file, gemma-3-1b-it where it is on this
    machine, else the embedded model, as `notices` say.
    weights: "auto" (as stored; a bf16 checkpoint as int8), "stored", "bf16", "int8" or "int4". context:
    positions a request may take, at most and by default the model's own. threads: by default chosen from
    the machine. Of these three, None takes what the settings say. offline: nothing is downloaded here in any
    case. draft: guesses that are checked several a step, which changes the speed and no result: True for
    those that the text itself suggests, a reference for a smaller model with the same tokenizer besides,
    False for none, None for what the settings say. parallel: sequences that run together, 16 by default;
    others wait. progress: called with bytes done and in all while weights are prepared, once.

    Raises ModelNotFoundError with the next step, ModelFileError naming file and field, InvalidRequestError,
    UnsupportedParameterError for endpoints, ContextLengthError for a context the model lacks;
    InvalidRequestError also for a draft model with another tokenizer.
    """
    _check_arguments(ref, offline, draft, context=context, threads=threads, parallel=parallel)
    settings = read_settings()
    weights = weights or cast(str, settings["weights"].value)
    limit = context or cast("int | None", settings["context"].value)
    threads = _at_most(MAX_THREADS, threads or cast("int | None", settings["threads"].value))
    found = resolve(None if ref is None else os.fspath(ref), progress=progress)
    loaded = _load_model(found.path, weights, progress)
    tokenizer = open_tokenizer(loaded)
    config = _config(loaded, tokenizer)
    adapter = read_adapter(found.adapter, config, loaded.weights.sha256) if found.adapter else None
    loaded, config = _taught_to_chat(loaded, config, adapter)
    _check_context(limit, config.context_length)
    template = open_chat_template(loaded, tokenizer)
    decoder = Decoder(config, loaded.weights, threads=threads)
    spare_work = sketch_head(decoder, loaded, weights)
    next(spare_work, None)  # a kept one is used from the start
    return Model(
        decoder,
        tokenizer,
        manifest=_manifest(found.reference, loaded, adapter, tokenizer, decoder, template),
        sampling=loaded.facts.sampling,
        has_chat_format=loaded.facts.chat_template is not None,
        template=template,
        context=limit,
        reference=found.reference,
        prefix_files=_prefix_files(cast(int, settings["prefix_cache"].value)),
        notices=_notices(found, loaded, adapter),
        speculator=_speculator(draft, threads, tokenizer, progress),
        adapter=adapter,
        spare_work=spare_work,
        limits=Limits(decoder.max_rows, sequences=parallel) if parallel else None,
    )


def _load_model(path: Path, weights: str, progress: Progress | None) -> Loaded:
    """The weights. Where they were packed just now, the cache is brought back to its limit."""
    packed = packed_path(path, weights, cache_dir())
    known = packed.exists()
    loaded = load_model(path, weights, cache_dir=cache_dir(), progress=progress)
    mark_used(packed)
    if not known:
        keep_within_limit()
    return loaded


def _taught_to_chat(
    loaded: Loaded, config: ModelConfig, adapter: AdapterFile | None
) -> tuple[Loaded, ModelConfig]:
    """A base model whose adapter was trained on a chat format has that format, and its stop ids."""
    if adapter is None or adapter.chat_template is None or loaded.facts.chat_template is not None:
        return loaded, config
    stop_ids, _ = correct_stop_ids(FAMILIES[config.family], config.stop_ids, chat=True)
    taught = replace(loaded, facts=replace(loaded.facts, chat_template=adapter.chat_template))
    return taught, replace(config, stop_ids=stop_ids)


def _notices(found: Found, loaded: Loaded, adapter: AdapterFile | None) -> tuple[str, ...]:
    of_adapter = adapter.notices if adapter else ()
    return (*found.notices, *loaded.facts.corrections, *loaded.notes, *of_adapter)


def prefix_dir() -> Path:
    """Folder of the pages of prompts."""
    return cache_dir() / "prefixes"


def _prefix_files(limit: int) -> PageFiles | None:
    return PageFiles(prefix_dir(), limit) if limit else None


def sketch_head(decoder: Decoder, loaded: Loaded, weights: str = "auto") -> Pieces[None]:
    """Make tokens cheaper where only the largest logits are needed, if the settings let it.

    Takes seconds, once for a model loaded with these `weights`; a kept sketch is used at once.
    """
    if not read_settings()["head_sketch"].value:
        return

    def samples() -> list[int]:
        return open_tokenizer(loaded).encode(SAMPLES.read_text(encoding="utf-8"), bos=True)

    path = packed_path(loaded.facts.path, weights, cache_dir()).with_suffix(".head")
    yield from use_sketch(decoder, loaded.weights, samples, path)


def open_tokenizer(loaded: Loaded) -> Tokenizer:
    """The tokenizer of a model; ModelFileError where the model has not a row for each of its pieces."""
    tokenizer = Tokenizer.from_source(loaded.facts.tokenizer, cache_dir())
    rows = loaded.facts.config.vocab_size
    if tokenizer.vocab_size < rows:
        problem = f"has {tokenizer.vocab_size} pieces, the embedding has {rows} rows"
        raise ModelFileError(loaded.facts.tokenizer.path, "vocabulary", problem)
    return tokenizer


def _config(loaded: Loaded, tokenizer: Tokenizer) -> ModelConfig:
    """The configuration; control tokens that end an answer in every model of the family are stop ids too."""
    config = loaded.facts.config
    named = (tokenizer.control_id(name) for name in FAMILIES[config.family].stop_names)
    stop_ids = {*config.stop_ids, *(token_id for token_id in named if token_id is not None)}
    return replace(config, stop_ids=tuple(sorted(stop_ids)))


def open_chat_template(loaded: Loaded, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The model's own chat template, where its family has not one format for all."""
    facts = loaded.facts
    if facts.chat_template is None or not isinstance(tokenizer, ByteLevelTokenizer):
        return None
    ids = {"bos_token": facts.config.bos_id, "eos_token": facts.config.stop_ids[0]}
    names = {key: tokenizer.shown([token_id]) for key, token_id in ids.items()}
    return ChatTemplate(facts.chat_template, tokenizer, names, facts.path)


def _speculator(
    draft: object, threads: int | None, tokenizer: Tokenizer, progress: Progress | None
) -> AdaptiveSpeculator | None:
    if draft is None:
        draft = read_settings()["drafts"].value
    if isinstance(draft, bool):
        return AdaptiveSpeculator(None) if draft else None
    small = _draft_decoder(os.fspath(cast(str, draft)), threads, tokenizer, progress)
    return AdaptiveSpeculator(DraftModel(small))


def _draft_decoder(ref: str, threads: int | None, tokenizer: Tokenizer, progress: Progress | None) -> Decoder:
    """The decoder of the model that drafts. InvalidRequestError unless it has that tokenizer."""
    found = resolve(ref, progress=progress)
    loaded = load_model(found.path, "auto", cache_dir=cache_dir(), progress=progress)
    own = open_tokenizer(loaded)
    if own.sha256 != tokenizer.sha256:
        raise InvalidRequestError(
            f"{ref} cannot draft: its tokenizer is another one (vocabulary {own.sha256[:12]},"
            f" the model's is {tokenizer.sha256[:12]})",
            hint="a smaller model of the same family has the same vocabulary",
        )
    return Decoder(loaded.facts.config, loaded.weights, threads=threads)


def _manifest(
    reference: str,
    loaded: Loaded,
    adapter: AdapterFile | None,
    tokenizer: Tokenizer,
    decoder: Decoder,
    template: ChatTemplate | None,
) -> Manifest:
    base = loaded.facts.chat_template is None
    return Manifest(
        model=reference,
        weights_sha256=loaded.weights.sha256,
        tokenizer_sha256=tokenizer.sha256,
        template_sha256=template_sha256(base=base) if template is None else template.sha256,
        adapter_sha256=None if adapter is None else adapter.sha256,
        weights_type=loaded.weights.weights_type,
        activation_type=decoder.activation_type,
        kv_type=decoder.cache_type,
        embedding_scale=loaded.facts.config.embedding_scale,
        instruction_set=decoder.instruction_set,
        engine_version=__version__,
    )


def _check_context(wanted: int | None, most: int) -> None:
    if wanted is not None and wanted > most:
        hint = f"the model was made for {most} tokens: ask for a context of at most as many"
        raise ContextLengthError(wanted, most, hint=hint)


def _at_most(most: int, threads: int | None) -> int | None:
    if threads is not None and threads > most:
        raise InvalidRequestError(f"threads must be at most {most}, not {threads}")
    return threads


def _check_arguments(ref: object, offline: object, draft: object, **counts: object) -> None:
    if ref is not None and not isinstance(ref, (str, os.PathLike)):
        raise InvalidRequestError(f"ref must be text, not {type(ref).__name__}")
    if draft is not None and not isinstance(draft, (str, os.PathLike, bool)):
        raise InvalidRequestError(f"draft must be a model reference, true or false, not {draft!r}")
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidRequestError(f"{name} must be a whole number from 1, not {value!r}")
    if offline is not None and not isinstance(offline, bool):
        raise InvalidRequestError(f"offline must be true, false or None, not {offline!r}")
