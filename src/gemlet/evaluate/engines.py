"""The engines whose speed is compared, each behind the same measurements. All times are in seconds."""

from __future__ import annotations

import ctypes
import importlib.util
import queue
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gemlet.errors import GemletError, ModelFileError
from gemlet.evaluate.stages import OURS
from gemlet.infer.engine import Engine as AnswerEngine
from gemlet.infer.requests import AnswerRequest, Event, Failed, Token
from gemlet.machine.memory import resident_bytes
from gemlet.model.decoder import Decoder
from gemlet.model.weights import load
from gemlet.model.work import Work, prompt_work, step_work
from gemlet.ops.batch import Batch, Page, State, pages_for
from gemlet.ops.sketch import finish
from gemlet.store.load import open_tokenizer, sketch_head
from gemlet.store.settings import cache_dir
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import Sampling

PEER_PACKAGE = "llama-cpp-python"

GREEDY_STEPS = 24
"""After which most pages of a mapped sketch of the head are in memory."""


class MissingPeerError(GemletError):
    """An engine to compare with is not installed."""

    exit_code = 6
    http_status = 501


class Engine(Protocol):
    """A loaded model with one sequence of its own."""

    name: str
    details: str

    def prefill(self, ids: Sequence[int]) -> float:
        """Start the sequence anew with these ids; the time until the last one's logits are there."""

    def decode(self, ids: Sequence[int]) -> list[float]:
        """Feed ids to the sequence one at a time; the time of each."""

    def streams(self, count: int, ids: Sequence[int]) -> list[float]:
        """Feed each id to `count` new sequences in one step together; the time of each step."""

    def answer(self, ids: Sequence[int], tokens: int) -> list[float]:
        """Answer greedily after these ids: the time to the first token, and from each to the next."""

    def memory(self) -> dict[str, int]:
        """Bytes resident, and what is known about them: `weights`, `kv` of the sequence."""

    def close(self) -> None:
        """Give back memory and threads."""


class Gemlet:
    """gemlet's decoder without sampling or text, as llama.cpp is measured, and its engine as it answers."""

    name = OURS

    def __init__(self, model: Path, threads: int, context: int, weights: str = "auto") -> None:
        loaded = load(model, weights, cache_dir=cache_dir())
        self._weights, self.config = loaded.weights, loaded.facts.config
        self._decoder = Decoder(self.config, loaded.weights, threads=threads)
        finish(sketch_head(self._decoder, loaded, weights))
        self._state = self._decoder.new_state()
        self._answers: AnswerEngine | None = None
        self._loaded = loaded
        self._tokenizer: Tokenizer | None = None
        self._marks: dict[int, State] = {}
        self._held: list[State] = []
        self.details = f"{self._decoder.instruction_set}, weights {loaded.weights.weights_type}"

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

    def check(self, ids: Sequence[int]) -> float:
        """Seconds of one step that reads ids with the logits of all, as drafts are checked; it is undone."""
        length = self._state.length
        seconds = self._step([(self._state, ids)], "all")
        self._state.trim(length)
        return seconds

    def streams(self, count: int, ids: Sequence[int]) -> list[float]:
        states = [self._decoder.new_state() for _ in range(count)]
        return [self._step([(state, [token]) for state in states]) for token in ids]

    def open_tokenizer(self) -> None:
        """Hold the tokenizer too, as a process does that answers text."""
        self._tokenizer = open_tokenizer(self._loaded)

    def fill(self, ids: Sequence[int], lengths: Sequence[int]) -> int:
        """Read ids and keep the sequence as it was at each of these lengths, for `time_steps` and `hold`."""
        state = self._decoder.new_state()
        self._marks = {0: state.copy()}
        for length in sorted(set(lengths) - {0}):
            for start in range(state.length, length, self._decoder.max_rows):
                self._step([(state, ids[start : min(start + self._decoder.max_rows, length)])], "none")
            self._marks[length] = state.copy()
        return state.length

    def time_steps(
        self, length: int, streams: int, ids: Sequence[int], times: int, logits: str = "last"
    ) -> list[float]:
        """Seconds of each of `times` steps that feed ids to `streams` sequences of the filled `length`."""
        states = self._separate(length, streams)
        return [self._step([(state, ids) for state in states], logits) for _ in range(times)]

    def hold(self, length: int, streams: int, token: int) -> dict[str, int]:
        """Memory while so many sequences of the filled `length` are kept, after a step of them together."""
        self._held = []
        self._held = self._separate(length, streams)
        self._step([(state, [token]) for state in self._held])
        alone = self._held[0].copy()
        for _ in range(GREEDY_STEPS):
            self._decoder.step(replace(Batch.of([(alone, [token])]), top=1))
        del alone
        return self.memory() | {"kv": sum(state.nbytes for state in self._held)}

    def _separate(self, length: int, streams: int) -> list[State]:
        """Sequences that share no memory, as those of different prompts."""
        mark = self._marks[length]
        states = [mark.copy()]
        if streams == 1 or length == 0:
            return states + [mark.copy() for _ in range(streams - 1)]
        first = {False: 0, True: mark.first_page}
        kept = [
            (local, index, mark.page(index, local))
            for local in (False, True)
            for index in range(first[local], pages_for(length))
        ]
        for _ in range(streams - 1):
            halves: tuple[list[Page], list[Page]] = ([], [])
            for local, index, page in kept:
                halves[local].append(self._decoder.restore_page(index, local, page.rows, page.save()))
            states.append(self._decoder.join(*halves, length))
        return states

    def answer(self, ids: Sequence[int], tokens: int) -> list[float]:
        if self._answers is None:
            self._answers = AnswerEngine(self._decoder, prefix_bytes=0)
        events: queue.Queue[Event] = queue.Queue()
        request = AnswerRequest(tuple(ids), tokens, Sampling(temperature=0.0), seed=0)
        times = [time.perf_counter()]
        self._answers.submit(request, events.put)
        while len(times) <= tokens:
            event = events.get()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Token):
                times.append(event.at)
        return [after - before for before, after in pairwise(times)]

    def memory(self) -> dict[str, int]:
        return {"resident": resident_bytes(), "weights": self._weights.nbytes, "kv": self._state.nbytes}

    def kv_price(self, positions: int) -> int:
        """Bytes that a state of so many positions would hold."""
        return self._decoder.kv_bytes(positions)

    def prompt_work(self, tokens: int) -> Work:
        return prompt_work(self.config, self._weights, tokens)

    def step_work(self, position: int, streams: int) -> Work:
        return step_work(self.config, self._weights, position, streams)

    def close(self) -> None:
        if self._answers is not None:
            self._answers.close()
        self._decoder.close()

    def batch(self, parts: list[tuple[State, Sequence[int]]], logits: Any) -> Batch:
        """The step that feeds each state its ids."""
        return Batch.of(parts, logits=logits)

    def _step(self, parts: list[tuple[State, Sequence[int]]], logits: Any = "last") -> float:
        began = time.perf_counter()
        self._decoder.step(self.batch(parts, logits))
        return time.perf_counter() - began


class LlamaCpp:
    """llama.cpp through its C interface, with its own defaults for batches and caches."""

    name = "llama.cpp"

    def __init__(self, model: Path, threads: int, context: int = 4096) -> None:
        check_peer()
        import llama_cpp

        self._c: Any = llama_cpp
        self._quiet = self._c.llama_log_callback(lambda *_: None)
        self._c.llama_backend_init()
        self._c.llama_log_set(self._quiet, ctypes.c_void_p(0))
        self._threads = threads
        self._model = self._c.llama_model_load_from_file(
            str(model).encode(), self._c.llama_model_default_params()
        )
        if not self._model:
            raise ModelFileError(model, "file", "llama.cpp cannot load it", hint="it takes GGUF files only")
        self._context = self._new_context(context, 1)
        self.details = self._c.llama_print_system_info().decode()

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

    def answer(self, ids: Sequence[int], tokens: int) -> list[float]:
        sampler = self._c.llama_sampler_init_greedy()
        seconds, times = self.prefill(ids), []
        for _ in range(tokens):
            began = time.perf_counter()
            token = self._c.llama_sampler_sample(sampler, self._context, -1)
            times.append(seconds + time.perf_counter() - began)
            seconds = self._feed([token])
        self._c.llama_sampler_free(sampler)
        return times

    def memory(self) -> dict[str, int]:
        return {"resident": resident_bytes()}

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
            raise GemletError("llama.cpp could not run a batch")
        self._c.llama_synchronize(context)
        return time.perf_counter() - began


ENGINES: dict[str, type[Gemlet] | type[LlamaCpp]] = {kind.name: kind for kind in (Gemlet, LlamaCpp)}


def check_peer() -> None:
    """MissingPeerError, which says how to install it, when llama.cpp is not there. Nothing is imported."""
    if importlib.util.find_spec("llama_cpp") is None:
        hint = f"CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary {PEER_PACKAGE} {PEER_PACKAGE}"
        raise MissingPeerError(f"comparing with llama.cpp needs {PEER_PACKAGE}", hint=hint)


def random_ids(count: int, seed: int, vocab_size: int = 262_144) -> list[int]:
    """Tokens from the middle half of a vocabulary: neither control tokens nor bytes."""
    ids = np.random.default_rng(seed).integers(vocab_size // 4, vocab_size * 3 // 4, count)
    return [int(token) for token in ids]
