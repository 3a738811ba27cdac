"""The engines that are compared, each behind the same three measurements."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gemlet.model.decoder import Decoder
from gemlet.model.sources import open_source
from gemlet.model.weights import load_weights
from gemlet.ops.batch import Adapter, Batch, State
from gemlet.ops.operations import LowRank
from gemlet.store.settings import cache_dir

LONGEST = 4096


class Engine(Protocol):
    """A loaded model with one sequence of its own. All times are in seconds."""

    name: str
    details: str

    def prefill(self, ids: Sequence[int]) -> float:
        """Start the sequence anew with these ids; the time until the last one's logits are there."""

    def decode(self, ids: Sequence[int]) -> list[float]:
        """Feed ids to the sequence one at a time; the time of each."""

    def streams(self, count: int, ids: Sequence[int]) -> list[float]:
        """Feed each id to `count` new sequences in one step together; the time of each step."""

    def close(self) -> None:
        """Give back memory and threads."""


class Gemlet:
    """gemlet's decoder, without sampling or text, as llama.cpp is measured."""

    name = "gemlet"

    def __init__(self, model: Path, threads: int) -> None:
        source = open_source(model)
        self._decoder = Decoder(source.config, load_weights(source, cache_dir=cache_dir()), threads=threads)
        self._state = self._decoder.new_state()
        self._adapters: list[Adapter] = []
        self.adapters_used = 0
        self.config = self._decoder.config
        self.details = self._decoder.instruction_set

    def adapt(self, parts: Mapping[str, LowRank]) -> int:
        """Take in an adapter and give its bytes; the first `adapters_used` serve the sequences in turn."""
        self._adapters.append(self._decoder.adapter(parts))
        return self._adapters[-1].nbytes

    def prefill(self, ids: Sequence[int]) -> float:
        self._state = self._decoder.new_state()
        step = self._decoder.max_rows
        began = time.perf_counter()
        for start in range(0, len(ids), step):
            last = start + step >= len(ids)
            self._step([(self._state, ids[start : start + step])], "last" if last else "none")
        return time.perf_counter() - began

    def decode(self, ids: Sequence[int]) -> list[float]:
        return [self._step([(self._state, [token])]) for token in ids]

    def streams(self, count: int, ids: Sequence[int]) -> list[float]:
        states = [self._decoder.new_state() for _ in range(count)]
        return [self._step([(state, [token]) for state in states]) for token in ids]

    def close(self) -> None:
        self._decoder.close()

    def _step(self, parts: list[tuple[State, Sequence[int]]], logits: Any = "last") -> float:
        used = self._adapters[: self.adapters_used]
        adapters = [used[i % len(used)] for i in range(len(parts))] if used else ()
        began = time.perf_counter()
        self._decoder.step(Batch.of(parts, logits=logits, adapters=adapters))
        return time.perf_counter() - began


class LlamaCpp:
    """llama.cpp through its C interface, with its own defaults for batches and caches."""

    name = "llama.cpp"

    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self._c = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        self._threads = threads
        self._model = llama_cpp.llama_model_load_from_file(
            str(model).encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {model}")
        self._context = self._new_context(LONGEST, 1)
        self.details = llama_cpp.llama_print_system_info().decode()

    def prefill(self, ids: Sequence[int]) -> float:
        self._c.llama_memory_clear(self._c.llama_get_memory(self._context), True)
        began = time.perf_counter()
        for start in range(0, len(ids), 2048):
            self._feed(ids[start : start + 2048])
        return time.perf_counter() - began

    def decode(self, ids: Sequence[int]) -> list[float]:
        return [self._feed([token]) for token in ids]

    def streams(self, count: int, ids: Sequence[int]) -> list[float]:
        context = self._new_context(512 * count, count)
        batch = self._c.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        times = []
        for position, token in enumerate(ids):
            for stream in range(count):
                batch.token[stream], batch.pos[stream], batch.logits[stream] = token, position, 1
                batch.n_seq_id[stream], batch.seq_id[stream][0] = 1, stream
            times.append(self._run(context, batch))
        self._c.llama_batch_free(batch)
        self._c.llama_free(context)
        return times

    def close(self) -> None:
        self._c.llama_free(self._context)
        self._c.llama_model_free(self._model)

    def _new_context(self, size: int, streams: int) -> Any:
        settings = self._c.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_seq_max = size, 2048, streams
        settings.n_threads = settings.n_threads_batch = self._threads
        settings.swa_full = False  # local layers keep their window only, as gemlet's do
        return self._c.llama_init_from_model(self._model, settings)

    def _feed(self, ids: Sequence[int]) -> float:
        tokens = (self._c.llama_token * len(ids))(*ids)
        return self._run(self._context, self._c.llama_batch_get_one(tokens, len(ids)))

    def _run(self, context: Any, batch: Any) -> float:
        began = time.perf_counter()
        if self._c.llama_decode(context, batch) != 0:
            raise SystemExit("llama.cpp could not run a batch")
        self._c.llama_synchronize(context)
        return time.perf_counter() - began


def random_ids(count: int, seed: int) -> list[int]:
    """Ordinary tokens, neither control tokens nor bytes."""
    return [int(token) for token in np.random.default_rng(seed).integers(1000, 200_000, count)]
