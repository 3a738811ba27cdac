"""The native engine: a request gives the same tokens and log-probabilities, whatever surrounds it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from gemlet.infer import prefixes
from gemlet.infer.adapters import Adapters, LoadedAdapter
from gemlet.infer.cache import PageFiles
from gemlet.infer.engine import Engine
from gemlet.infer.requests import AnswerRequest, PromptRequest
from gemlet.infer.scheduler import Limits
from gemlet.infer.speculate import MOST, AdaptiveSpeculator
from gemlet.model.decoder import Decoder
from gemlet.model.weights import load
from gemlet.ops.batch import PAGE
from gemlet.types import Sampling
from tests.adapters import random_adapter
from tests.infer.drafters import KnowingSpeculator, random_speculator
from tests.infer.naive import Running, assert_outputs_equal
from tests.synthetic import tiny_config, write_tiny_gguf

CONFIG = tiny_config(context_length=512, sliding_window=24)
SAMPLINGS = (Sampling(top_k=40, top_p=0.95), Sampling(temperature=0.0), Sampling(temperature=1.5, min_p=0.02))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("bits") / "tiny.gguf"
    write_tiny_gguf(path, CONFIG, np.random.default_rng(1), "Q4_0")
    return load(path, cache_dir=None).weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    under = tmp_path_factory.mktemp("adapters")
    return [
        random_adapter(under / "p", CONFIG, 1, rank=4),
        random_adapter(under / "q", CONFIG, 2, rank=17, kinds=["attn_q", "attn_v", "ffn_down"]),
    ]


def loaded(decoder: Decoder, folders) -> list[LoadedAdapter | None]:
    """None, for the model alone, and each adapter."""
    adapters = Adapters(decoder, "0" * 64)
    return [None, *(adapters.find(adapters.load(folder).name) for folder in folders)]


def requests(rng: random.Random) -> list[AnswerRequest | PromptRequest]:
    """Prompts that share beginnings, as conversations do, some longer than the window."""
    texts = [[2, *(rng.randrange(300, 640) for _ in range(rng.randint(1, 150)))] for _ in range(4)]
    made: list[AnswerRequest | PromptRequest] = []
    for _ in range(24):
        base = rng.choice(texts)
        tail = [rng.randrange(300, 640) for _ in range(rng.randint(1, 20))]
        ids = tuple(base[: rng.randint(1, len(base))] + tail)
        if rng.random() < 0.25:
            made.append(PromptRequest(ids, (len(ids) - 1,), (0,) if rng.random() < 0.5 else (), 1))
            continue
        sampling, n = rng.choice(SAMPLINGS), rng.choice([1, 1, 3])
        made.append(AnswerRequest(ids, rng.randint(1, 25), sampling, rng.randint(0, 9), n, frozenset({1}), 2))
    return made


def check_equal(got: Running, alone: Running) -> None:
    if got.outputs is not None:
        assert_outputs_equal(got.outputs, alone.outputs)
        return
    for index, reason in got.ended.items():
        tokens, expected = got.tokens.get(index, []), alone.tokens.get(index, [])
        assert tokens == (expected[: len(tokens)] if reason == "cancelled" else expected)


def known(asked, alone):
    """What each sequence answers, from runs without drafts. More may be asked later."""

    def answer(sequence):
        at = next(i for i, request in enumerate(asked) if request is sequence.request)
        tokens = alone[at].tokens
        return [token for token, *_ in tokens.get(sequence.index, ())]

    return answer


@pytest.mark.parametrize("seed", range(4))
def test_all_that_surrounds_a_request(weights, folders, seed, tmp_path, monkeypatch):
    """Chunks, neighbours, prefixes, adapters, threads, drafts, restarts and cancellations."""
    monkeypatch.setattr(prefixes, "SHORTEST_ON_DISK", PAGE)
    rng = random.Random(seed)
    asked, chosen = requests(rng), [rng.randrange(3) for _ in range(24)]
    decoder = Decoder(CONFIG, weights, threads=1)
    of_quiet, quiet = (
        loaded(decoder, folders),
        Engine(decoder, limits=Limits(256, sequences=1), prefix_bytes=0),
    )
    alone = [
        Running.submit(quiet, replace(request, adapter=of_quiet[which])).wait()
        for request, which in zip(asked, chosen, strict=True)
    ]
    quiet.close()
    again: list = []  # the same requests, with the adapters of the engine that is busy
    speculator = AdaptiveSpeculator() if seed == 0 else random_speculator(known(again, alone), rng)
    cached = 0
    for start in range(0, len(asked), 8):
        if start in (0, 16):  # anew, with nothing but the files of the one before
            limits = Limits(rng.choice([8, 33, 256]), rng.choice([1, 16]), rng.choice([2, 7]))
            decoder = Decoder(CONFIG, weights, threads=rng.choice([1, 2]))
            of_busy = loaded(decoder, folders)
            busy = Engine(
                decoder,
                limits=limits,
                shortest_prefix=2,
                prefix_bytes=rng.choice([2**16, 2**28]),
                prefix_files=PageFiles(tmp_path, 2**28),
                speculator=speculator,
            )
        some = slice(start, start + 8)
        again += [replace(r, adapter=of_busy[w]) for r, w in zip(asked[some], chosen[some], strict=True)]
        together = [Running.submit(busy, request) for request in again[start:]]
        for running in together:
            if rng.random() < 0.2:
                running.ticket.cancel()
        for running, expected in zip(together, alone[start : start + 8], strict=True):
            check_equal(running.wait(), expected)
            cached += running.started.cached_tokens if running.started else 0
        if start != 0:
            busy.close()
    assert cached > 0  # prefixes were really reused
    assert seed == 0 or limits.step_rows == 8 or speculator.drafted > 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_drafts_across_windows_and_pages(weights, sampling):
    """Every step is cut back, at every distance from the borders of windows (24) and pages (64)."""
    rng = random.Random(3)
    asked = [AnswerRequest((2, 300, 301 + i), 300, sampling, i, 1, frozenset(), 3) for i in range(2)]
    quiet = Engine(Decoder(CONFIG, weights, threads=1), prefix_bytes=0)
    alone = [Running.submit(quiet, request).wait() for request in asked]
    quiet.close()
    for right in (0, 1, MOST):
        speculator = KnowingSpeculator(known(asked, alone), lambda: MOST, lambda r=right: rng.randint(0, r))
        busy = Engine(Decoder(CONFIG, weights, threads=2), speculator=speculator)
        together = [Running.submit(busy, request) for request in asked]
        for running, expected in zip(together, alone, strict=True):
            check_equal(running.wait(), expected)
        busy.close()
        assert speculator.drafted > 300
