"""A `Model` on the fake decoder, with a real small tokenizer."""

from __future__ import annotations

import functools

from gemlet.infer.chat import Model
from gemlet.infer.scheduler import Limits
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import Manifest, Sampling
from tests.infer.fakes import FakeDecoder, small_config
from tests.synthetic_tokenizer import tiny_tokenizer

VOCABULARY = 640
CONTEXT = 800
MANIFEST = Manifest("fake", "w", "t", None, None, "f32", "f32", "f32", 1.0, "fake", "0")
DEFAULTS = Sampling(temperature=1.0, top_k=20, top_p=0.95)


@functools.cache
def small_tokenizer() -> Tokenizer:
    return Tokenizer.from_sentencepiece(tiny_tokenizer(VOCABULARY))


def fake_decoder(**options) -> FakeDecoder:
    return FakeDecoder(small_config(VOCABULARY, CONTEXT), **options)


def fake_model(decoder: FakeDecoder | None = None, *, has_chat_format: bool = True, **options) -> Model:
    options.setdefault("limits", Limits(32, sequences=8))
    return Model(
        decoder or fake_decoder(),
        small_tokenizer(),
        manifest=MANIFEST,
        sampling=DEFAULTS,
        has_chat_format=has_chat_format,
        **options,
    )
