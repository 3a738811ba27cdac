"""The real model's metadata, which every file of the corpus is written after."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemlet.store.embedded import embedded_model
from gemlet.store.settings import cache_dir
from tests.parity.true_tokenizer import chat_template
from tests.provenance.corpus import Corpus


@pytest.fixture(scope="session")
def corpus(own_home: None) -> Corpus:
    return Corpus(embedded_model(cache_dir()))


@pytest.fixture(scope="session")
def stock_template(true_tokenizer: Path) -> str:
    return chat_template(true_tokenizer)
