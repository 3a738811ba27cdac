"""The native engine: what goes on from pages, wherever they come from, equals what was never interrupted."""

from __future__ import annotations

import gc
import multiprocessing
import random
from pathlib import Path

import numpy as np
import pytest

from gemlet.infer.cache import PageFiles
from gemlet.infer.engine import Engine
from gemlet.infer.prefixes import Place, Prefixes
from gemlet.infer.requests import AnswerRequest, PromptRequest
from gemlet.model.decoder import Decoder
from gemlet.ops.batch import PAGE, Batch, State
from gemlet.ops.native import NativePage
from gemlet.types import Sampling
from tests.infer.naive import Running
from tests.packing import packed_weights
from tests.synthetic import tiny_config, tiny_weights

WINDOW = 512
CONFIG = tiny_config(context_length=2048, sliding_window=WINDOW)
IDS = [2, *np.random.default_rng(3).integers(300, 600, 1100).tolist()]
LENGTH = 1000
ROOT = b"tiny"


def make_decoder(threads: int = 2) -> Decoder:
    weights = packed_weights(tiny_weights(CONFIG, np.random.default_rng(0)), "Q4_0")
    return Decoder(CONFIG, weights, threads=threads)


@pytest.fixture(scope="module")
def decoder():
    made = make_decoder()
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected(decoder) -> np.ndarray:
    """Logits of every position of IDS."""
    state = decoder.new_state()
    return np.concatenate([step(decoder, state, IDS[at : at + 64]) for at in range(0, len(IDS), 64)])


def step(decoder: Decoder, state: State, ids: list[int]) -> np.ndarray:
    return decoder.step(Batch.of([(state, ids)], logits="all")).logits


def read(
    decoder: Decoder, prefixes: Prefixes, chunk: int, ids=tuple(IDS[:LENGTH]), prompt: int = LENGTH
) -> None:
    """As the engine does with a prompt, in steps of `chunk` rows."""
    place, state = Place(ROOT, prompt), decoder.new_state()
    while state.length < len(ids):
        decoder.step(Batch.of([(state, ids[state.length : state.length + chunk])]))
        prefixes.register(place, ids, state)
    prefixes.register(place, ids, state, end=True)


def check(decoder: Decoder, prefixes: Prefixes, expected: np.ndarray, length: int, rows: int = 3) -> int:
    """Go on from the longest beginning of at most `length` tokens; how long it was."""
    state = prefixes.find(Place(ROOT, len(IDS)), IDS, length).state
    if state is None:
        return 0
    start = state.length
    assert start <= length
    np.testing.assert_array_equal(
        step(decoder, state, IDS[start : start + rows]), expected[start : start + rows]
    )
    return start


@pytest.mark.parametrize("chunk", [64, 100, 256])
def test_every_position_can_be_gone_on_from(decoder, expected, chunk):
    """Also where the window of the local layers begins behind the sequence's start, and with large steps."""
    prefixes = Prefixes(decoder, 2**30, 1)
    read(decoder, prefixes, chunk)
    lengths = range(1, LENGTH + 1) if chunk == 100 else range(PAGE, LENGTH + 1, PAGE)
    for length in lengths:
        assert check(decoder, prefixes, expected, length) == length
    for length in (64, 200, 512, 513, 576, 640, 1000):  # and far
        assert check(decoder, prefixes, expected, length, 100) == length
    before = prefixes.nbytes
    for length in lengths[::7]:  # nothing that went on has written to what is kept
        assert check(decoder, prefixes, expected, length) == length
    assert prefixes.nbytes == before


def test_little_memory(decoder, expected):
    """What is left after pages were dropped is right, and the end of the last sequence is always left."""
    whole = Prefixes(decoder, 2**30, 1)
    read(decoder, whole, 64)
    rng = random.Random(1)
    for share in (0.9, 0.7, 0.6, 0.3, 0.1):
        prefixes = Prefixes(decoder, int(whole.nbytes * share), 1)
        read(decoder, prefixes, 64, tuple(reversed(IDS)))
        read(decoder, prefixes, 64)
        assert prefixes.nbytes <= whole.nbytes * share
        for length in [rng.randrange(1, LENGTH + 1) for _ in range(50)]:
            check(decoder, prefixes, expected, length)
        if share >= 0.7:
            read(decoder, prefixes, 64)
            assert check(decoder, prefixes, expected, LENGTH) == LENGTH


def test_pages_of_a_running_sequence_stay_as_they_were(decoder, expected):
    """A sequence that goes on in a page that others hold writes to a page of its own."""
    prefixes = Prefixes(decoder, 2**30, 1)
    ids, place, state = IDS[:100], Place(ROOT), decoder.new_state()
    decoder.step(Batch.of([(state, ids)]))
    prefixes.register(place, ids, state, end=True)
    step(decoder, state, [5] * 10)  # another way than IDS
    assert check(decoder, prefixes, expected, 100) == 100
    state.trim(90)
    step(decoder, state, [6] * 10)
    assert check(decoder, prefixes, expected, 100) == 100


def test_from_disk(decoder, expected, tmp_path):
    files = PageFiles(tmp_path, 2**30)
    read(decoder, Prefixes(decoder, 2**30, 1, files), 64)
    assert files.flush(20)
    assert len(list(tmp_path.iterdir())) == LENGTH // PAGE
    for length in (64, 65, 127, 128, 512, 576, 639, 640, 960, 1000):
        cold = Prefixes(decoder, 2**30, 1, files)
        assert check(decoder, cold, expected, length) == length // PAGE * PAGE  # whole pages
        # Of the local layers nothing was read that the window does not see.
        assert len(cold._order) == length // PAGE and len(cold._local_order) <= WINDOW // PAGE + 1
        assert check(decoder, cold, expected, length) == length // PAGE * PAGE  # from memory, by now
        assert check(decoder, cold, expected, 64) == min(
            length // PAGE * PAGE, 64
        )  # its local half from disk
    tiny = Prefixes(decoder, 1, 1, files)  # too little memory for a single page
    assert check(decoder, tiny, expected, LENGTH) == 960 and tiny.nbytes == 0
    assert Prefixes(decoder, 2**30, 1, files).find(Place(b"other", LENGTH), IDS, 64).state is None
    files.close()


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_cost_time_only(decoder, expected, tmp_path, seed):
    files, rng = PageFiles(tmp_path, 2**30), random.Random(seed)
    read(decoder, Prefixes(decoder, 2**30, 1, files), 64)
    assert files.flush(20)
    for path in tmp_path.iterdir():
        if rng.random() < 0.2:
            data = bytearray(path.read_bytes())
            kind = rng.randrange(3)
            if kind == 0:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data if kind == 0 else data[: rng.randrange(len(data))] if kind == 1 else b"")
    files.close()
    # Each process removes and replaces what it meets; a bad file behind another one is met later.
    for _ in range(LENGTH // PAGE):
        files = PageFiles(tmp_path, 2**30)
        prefixes = Prefixes(decoder, 2**30, 1, files)
        for length in (LENGTH, 700, 300, 100, LENGTH):
            check(decoder, prefixes, expected, length)
        read(decoder, prefixes, 64)
        files.close()
    whole = Prefixes(decoder, 2**30, 1, PageFiles(tmp_path, 2**30))
    assert check(decoder, whole, expected, LENGTH) == LENGTH // PAGE * PAGE


def last_logits(folder: Path, queue) -> None:
    decoder = make_decoder(threads=1)
    engine = Engine(decoder, prefix_files=PageFiles(folder, 2**30), prefix_root=ROOT)
    running = Running.submit(engine, PromptRequest(tuple(IDS), (len(IDS) - 1,))).wait()
    queue.put((running.started.cached_tokens, running.outputs.logits.tobytes()))
    engine.close()


def test_a_new_process_goes_on_where_another_ended(decoder, expected, tmp_path):
    engine = Engine(make_decoder(), prefix_files=PageFiles(tmp_path, 2**30), prefix_root=ROOT)
    asked = AnswerRequest(tuple(IDS), 5, Sampling(temperature=0.0), 0)
    first = Running.submit(engine, asked).wait()
    assert first.started.cached_tokens == 0
    engine.close()  # writes what is waiting
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=last_logits, args=(tmp_path, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in workers:
        cached, logits = queue.get(timeout=60)
        assert cached == len(IDS) // PAGE * PAGE
        assert logits == expected[-1].tobytes()
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == 0


def test_answers_short_prompts_and_numbers_are_not_written(tmp_path):
    engine = Engine(make_decoder(), prefix_files=PageFiles(tmp_path, 2**30), prefix_root=ROOT)
    greedy = Sampling(temperature=0.0)
    Running.submit(engine, AnswerRequest(tuple(IDS[:200]), 200, greedy, 0)).wait()
    Running.submit(engine, PromptRequest(tuple(IDS[:700]), (699,))).wait()
    assert engine._worker._prefixes._files.flush(20)
    assert list(tmp_path.iterdir()) == []
    # A prompt that only memory made quick is written as well, with what was an answer or asked for numbers.
    again = Running.submit(engine, AnswerRequest(tuple(IDS[:650]), 1, greedy, 0)).wait()
    assert again.started.cached_tokens == 649
    engine.close()
    assert len(list(tmp_path.iterdir())) == 650 // PAGE


def test_nothing_is_kept_after_closing(tmp_path):
    gc.collect()
    before = count_pages()
    engine = Engine(make_decoder(), prefix_files=PageFiles(tmp_path, 2**30), prefix_root=ROOT)
    prefixes = engine._worker._prefixes
    Running.submit(engine, AnswerRequest(tuple(IDS), 20, Sampling(), 0, n=3)).wait()
    assert prefixes.nbytes > 0 and count_pages() > before
    engine.close()
    gc.collect()
    assert prefixes.nbytes == 0 and count_pages() == before


def count_pages() -> int:
    return sum(isinstance(thing, NativePage) for thing in gc.get_objects())
