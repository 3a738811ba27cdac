"""A decoder and a tokenizer small enough to reason about.

FakeDecoder's logits are a hash of the whole prefix, so a wrong cache, batch or chunk shows at once.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from gemlet.errors import StateError
from gemlet.model.config import ModelConfig
from gemlet.ops.batch import PAGE, Batch, Largest, StepOutput, pages_for

BOS, STOP, END_OF_TURN = 2, 1, 3
SLACK = 20
WINDOW = 100  # positions before a page that its local half has to reach back
HIDDEN = 4


def small_config(vocab_size: int = 40, context_length: int = 256) -> ModelConfig:
    return ModelConfig(
        family="gemma3", vocab_size=vocab_size, hidden_size=HIDDEN, intermediate_size=8,
        layer_types=("local", "global"), num_attention_heads=1, num_key_value_heads=1, head_dim=4,
        context_length=context_length, sliding_window=4, rope_theta=1e6, rope_local_theta=1e4,
        rms_norm_eps=1e-6, attention_scale=0.5, embedding_scale=2.0, tie_word_embeddings=True,
        bos_id=BOS, stop_ids=(STOP,), pad_id=0,
    )  # fmt: skip


class FakeState:
    """The whole prefix. Like a window's store, it trims at most SLACK positions behind its longest length."""

    def __init__(self, ids: tuple[int, ...] = (), longest: int = 0) -> None:
        self.ids = ids
        self.longest = max(longest, len(ids))

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return 16 * self.length

    def copy(self) -> FakeState:
        return FakeState(self.ids, self.longest)

    def trim(self, length: int) -> None:
        if not max(0, self.longest - SLACK) <= length <= self.length:
            raise StateError(f"cannot trim to {length}")
        self.ids = self.ids[:length]

    @property
    def first_page(self) -> int:
        return max(0, self.longest - SLACK - WINDOW) // PAGE

    def page(self, index: int, local: bool) -> FakePage:
        if not 0 <= index < pages_for(self.length) or (local and index < self.first_page):
            raise StateError(f"page {index} is not held")
        return FakePage(index, local, self.ids[index * PAGE : (index + 1) * PAGE])


@dataclass(frozen=True)
class FakePage:
    """The ids of a page, in each half."""

    index: int
    local: bool
    ids: tuple[int, ...]
    nbytes: int = 8 * PAGE

    @property
    def rows(self) -> int:
        return len(self.ids)

    def save(self) -> bytes:
        body = json.dumps([self.index, self.local, self.ids]).encode().ljust(1000)
        return hashlib.blake2b(body, digest_size=8).digest() + body


def logits_after(ids: tuple[int, ...], vocab_size: int, stop_bias: float = 0.0) -> np.ndarray:
    """float32 [vocab_size], a function of every id of the prefix."""
    digest = hashlib.blake2b(np.asarray(ids, np.int32).tobytes(), digest_size=8).digest()
    row = np.random.default_rng(int.from_bytes(digest, "little")).normal(0, 2, vocab_size).astype(np.float32)
    row[STOP] += np.float32(stop_bias)
    return row


def hidden_after(ids: tuple[int, ...]) -> np.ndarray:
    return logits_after((*ids, -1), HIDDEN)


@dataclass
class FakeDecoder:
    """Follows the decoder's protocol. `delay` seconds a step; `fail` may raise; `steps` are the rows run."""

    config: ModelConfig = field(default_factory=small_config)
    max_rows: int = 32
    delay: float = 0.0
    stop_bias: float = 0.0
    instruction_set: str = "fake"
    build: str = "1"
    threads: int = 1

    def __post_init__(self) -> None:
        self.steps: list[tuple[int, ...]] = []
        self.closed = False
        self.fail = lambda batch: None
        self.gate: threading.Event | None = None

    def new_state(self) -> FakeState:
        return FakeState()

    def first_needed_page(self, length: int) -> int:
        return max(0, length - WINDOW) // PAGE

    def join(self, pages: list[FakePage], local_pages: list[FakePage], length: int) -> FakeState:
        first = len(pages) - len(local_pages)
        assert len(pages) == pages_for(length) and 0 <= first <= self.first_needed_page(length)
        for i, page in [*enumerate(pages), *enumerate(local_pages, first)]:
            assert page.index == i and page.ids[: length - i * PAGE] == pages[i].ids[: length - i * PAGE]
        assert not any(page.local for page in pages) and all(page.local for page in local_pages)
        ids = tuple(id for page in pages for id in page.ids)[:length]
        assert len(ids) == length
        return FakeState(ids)

    def restore_page(self, index: int, local: bool, rows: int, data: bytes) -> FakePage:
        if hashlib.blake2b(data[8:], digest_size=8).digest() != data[:8]:
            raise StateError("altered")
        page = FakePage(*(tuple(x) if isinstance(x, list) else x for x in json.loads(data[8:])))
        if (page.index, page.local, page.rows) != (index, local, rows):
            raise StateError("another page")
        return page

    def kv_bytes(self, positions: int) -> int:
        return 16 * positions

    def step(self, batch: Batch) -> StepOutput:
        assert not self.closed and 0 < len(batch.ids) <= self.max_rows
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.delay:
            time.sleep(self.delay)
        self.fail(batch)
        self.steps.append(batch.rows)
        prefixes: list[tuple[int, ...]] = []
        start = 0
        for state, rows in zip(batch.states, batch.rows, strict=True):
            for token in batch.ids[start : start + rows].tolist():
                state.ids = (*state.ids, token)
                prefixes.append(state.ids)
            state.longest = max(state.longest, state.length)
            start += rows
        vocab = self.config.vocab_size
        logits = [logits_after(prefixes[row], vocab, self.stop_bias) for row in batch.logits]
        hidden = [hidden_after(prefixes[row]) for row in batch.hidden]
        states = np.array(hidden, np.float32).reshape(-1, HIDDEN)
        if batch.top:
            allowed = batch.allowed or [None] * len(logits)
            largest = tuple(map(self.largest, logits, allowed, [batch.top] * len(logits)))
            return StepOutput(np.empty((0, vocab), np.float32), states, largest)
        return StepOutput(np.array(logits, np.float32).reshape(-1, vocab), states)

    def largest(self, row: np.ndarray, bits: np.ndarray | None, top: int) -> Largest:
        ids, values = self.top_k(row, len(row))
        held = np.ones(len(row), bool) if bits is None else np.unpackbits(bits, bitorder="little")[ids] != 0
        return Largest(ids[held][:top], values[held][:top])

    def top_k(self, row: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(-row, kind="stable")[:k]
        return order.astype(np.int32), row[order]

    def logsumexp(self, row: np.ndarray) -> float:
        largest = float(row.max())
        return largest + float(np.log(np.exp(row.astype(np.float64) - largest).sum()))

    def close(self) -> None:
        self.closed = True
