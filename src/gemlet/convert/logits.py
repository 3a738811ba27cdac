"""A written file computed by the program it was written for, against this engine on the source.

Reading a file back cannot tell whether others understand it the same way. Logits of a short text can.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.convert.verify import ExportFaultError, named_ends
from gemlet.machine.threads import threads
from gemlet.model.adapters import AdapterFile
from gemlet.model.decoder import Decoder
from gemlet.model.families import FAMILIES
from gemlet.model.sources import Source
from gemlet.model.weights import load
from gemlet.ops.batch import Batch
from gemlet.text.tokenizer import Tokenizer

Float32 = NDArray[np.float32]

TEXT = (
    "The sea looks blue because water takes the red light out of what the sun sends. In 1984 a ship of "
    "3 masts lay at anchor there.\n\ndef area(width, height):\n    return width * height\n\n"
    "Wer nachts am Fluss steht, hört das Wasser: 水の音。 It was the best of times, it was the"
)
"""Prose, figures, code with its spaces, and other scripts: pieces of every type."""

LIMITS: Mapping[str, float] = {"Q8_0": 0.05, "Q4_0": 2.0}
"""The largest mean KL divergence, in nats a token, between the source here and the export there.

Every kind but Q4_0 has the limit of Q8_0: several times what a correct export of the 270M shows, a ninth of
what a fault in one tensor does. A Q4_0 of the 270M is as far off as that by itself, so that its limit finds
only what is wrong throughout; faults in one tensor are found by comparing values. docs/decisions/0010.
"""


@dataclass(frozen=True)
class Computed:
    """What another program makes of a text: its token ids and float32 logits [tokens, vocab].

    `stops`: the ids that end an answer there; `stated`: those of them that it has from the file.
    """

    program: str
    ids: tuple[int, ...]
    logits: Float32
    stops: frozenset[int]
    stated: frozenset[int]


@dataclass(frozen=True)
class LogitCheck:
    """Mean KL divergence from this engine on the source, nats a token; `top1`: how often the first agrees."""

    program: str
    tokens: int
    mean_kl: float
    top1: float
    limit: float


def expected_logits(source: Source, adapter: AdapterFile | None) -> tuple[tuple[int, ...], Float32]:
    """Ids of TEXT and their logits from the source's own weights, with the adapter beside them."""
    ids = tuple(Tokenizer.from_source(source.facts.tokenizer).encode(TEXT, bos=True))
    decoder = Decoder(source.config, load(source.facts.path, "stored", cache_dir=None).weights)
    try:
        computed = None if adapter is None else decoder.adapter(adapter.parts)
        state, parts = decoder.new_state(), []
        for start in range(0, len(ids), decoder.max_rows):
            piece = ids[start : start + decoder.max_rows]
            parts.append(decoder.step(Batch.of([(state, piece)], logits="all", adapters=[computed])).logits)
        return ids, np.concatenate(parts)
    finally:
        decoder.close()


def compare(
    source: Source, computed: Computed, ids: Sequence[int], logits: Float32, limit: float
) -> LogitCheck:
    """Compare ids, stop ids and logits. Raises ExportFaultError where they are too far apart."""
    if computed.ids != tuple(ids):
        raise ExportFaultError(
            f"{computed.program} reads a text as {_first_difference(computed.ids, ids)}: another tokenizer"
        )
    # A program may know a chat model's ends by their names, where a base model's files do not state them.
    wanted = set(source.config.stop_ids)
    possible = wanted | set(FAMILIES[source.config.family].chat_stop_ids) | named_ends(source)
    if not (wanted <= computed.stops and computed.stated <= possible):
        found = ", ".join(map(str, sorted(computed.stated)))
        raise ExportFaultError(
            f"{computed.program} reads {found} as the ends of an answer, where {sorted(wanted)} is meant"
        )
    if not np.isfinite(computed.logits).all():
        raise ExportFaultError(f"{computed.program} computes values that are not finite")
    kl = mean_divergence(logits, computed.logits)
    top1 = float(np.mean(logits.argmax(-1) == computed.logits.argmax(-1)))
    if not kl <= limit:
        raise ExportFaultError(
            f"{computed.program} computes other logits: a KL divergence of {kl:.3g}, at most {limit:g}"
        )
    return LogitCheck(computed.program, len(ids), kl, top1, limit)


def _first_difference(found: Sequence[int], wanted: Sequence[int]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted))
    return f"{list(found[at : at + 4])} at token {at}, where {list(wanted[at : at + 4])} is meant"


def mean_divergence(expected: Float32, found: Float32) -> float:
    """Mean KL divergence of logits [tokens, vocab] from the expected ones, in nats a token."""
    return float(np.mean([_divergence(p, q) for p, q in zip(expected, found, strict=True)]))


def _divergence(expected: Float32, found: Float32) -> float:
    p, q = _log_softmax(expected), _log_softmax(found)
    return float((np.exp(p) * (p - q)).sum())


def _log_softmax(logits: Float32) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def limit_of(kinds: Mapping[str, str]) -> float:
    """The limit for a file with these kinds of tensors: that of the coarsest."""
    return max(LIMITS.get(kind, LIMITS["Q8_0"]) for kind in kinds.values())


def adapter_limit(alone: float, effect: float) -> float:
    """The limit for an adapter of its own: twice what the model shows without it, and 2 % of what it changes.

    A random adapter of rank 4 on the 270M changes 4.3 nats and shows 0.041, 0.009 without; on SmolLM2 0.14,
    0.0041 and 0.0038.
    """
    return 2 * alone + 0.02 * effect


def has_llama_cpp() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


_silence: Any = None


def llama_cpp_logits(path: Path, adapter: Path | None = None, *, context: int = 512) -> Computed:
    """What llama.cpp computes from a GGUF file, with an adapter of its own format beside it.

    Raises ExportFaultError where it does not open the file.
    """
    package: Any = importlib.import_module("llama_cpp")
    global _silence
    if _silence is None:  # the library calls it for as long as the process lives
        _silence = package.llama_log_callback(lambda level, text, data: None)
        package.llama_log_set(_silence, ctypes.c_void_p(0))
    size = {"n_ctx": context, "n_batch": context, "n_threads": threads().count}
    lora = None if adapter is None else str(adapter)
    try:
        model = package.Llama(str(path), lora_path=lora, logits_all=True, verbose=False, **size)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ExportFaultError(f"llama.cpp does not open the file: {error}") from None
    try:
        ids = tuple(model.tokenize(TEXT.encode(), add_bos=True, special=False))
        model.eval(ids)
        logits = np.array(model.scores[: len(ids)], np.float32)
        vocab = package.llama_model_get_vocab(model.model)
        stops = frozenset(id for id in range(model.n_vocab()) if package.llama_vocab_is_eog(vocab, id))
        stated = frozenset({package.llama_vocab_eos(vocab), package.llama_vocab_eot(vocab)} - {-1})
    finally:
        model.close()
    return Computed("llama.cpp", ids, logits, stops, stated)
