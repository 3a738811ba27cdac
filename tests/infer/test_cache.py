"""Page files: the same page comes back, and anything else is a StateError and no file any more."""

from __future__ import annotations

import multiprocessing
import os
import random
import stat
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemlet.errors import StateError
from gemlet.infer import cache
from gemlet.infer.cache import Chain, PageFiles, clear, evict, root_key
from gemlet.ops.batch import PAGE
from gemlet.types import Manifest
from tests.infer.fakes import FakeDecoder, FakePage

DECODER = FakeDecoder()
HALVES = (FakePage(0, False, ()), FakePage(0, True, ()))
FILE_BYTES = sum(len(part) for part in cache._packed(bytes(32), 0, HALVES))


def halves(index: int = 0, first: int = 0) -> tuple[FakePage, FakePage]:
    ids = tuple(range(first, first + PAGE))
    return FakePage(index, False, ids), FakePage(index, True, ids)


def key(number: int) -> bytes:
    return Chain(b"root").key(0, [number] * PAGE)


def put(files: PageFiles, number: int, index: int = 0, at: int | None = None) -> bytes:
    assert files.offer(key(number), index, at or time.time_ns(), *halves(index, number))
    assert files.flush(20)
    return key(number)


def get(files: PageFiles, of: bytes, index: int = 0) -> list[FakePage]:
    return [files.read(DECODER, of, index, local) for local in (False, True)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "prefixes"


@pytest.fixture
def files(folder: Path):
    made = PageFiles(folder, 2**20)
    yield made
    made.close()


def test_the_same_page_comes_back(files, folder):
    of = put(files, 5, index=3)
    assert files.has(of)
    assert get(files, of, 3) == [*halves(3, 5)]
    assert [path.name for path in folder.iterdir()] == [f"{of.hex()}.page"]  # nothing half-written is left


def test_only_its_owner_can_look_into_the_folder(files, folder):
    folder.mkdir(parents=True, mode=0o755)
    put(files, 1)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(next(folder.iterdir()).stat().st_mode) == 0o600


def test_a_missing_file(files):
    assert not files.has(key(1))
    with pytest.raises(StateError, match="cannot be read"):
        files.read(DECODER, key(1), 0, False)


def test_a_page_under_the_name_of_another_is_refused_and_removed(files, folder):
    one, two = put(files, 1), put(files, 2)
    (folder / f"{one.hex()}.page").write_bytes((folder / f"{two.hex()}.page").read_bytes())
    with pytest.raises(StateError, match="another page"):
        files.read(DECODER, one, 0, False)
    assert not files.has(one) and not (folder / f"{one.hex()}.page").exists()
    with pytest.raises(StateError, match="another page"):
        files.read(DECODER, two, 1, False)  # another place


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_damaged_files_are_ignored_and_removed(tmp_path, data):
    """Bytes changed, cut off, added or all others: a good half may still be read, a wrong one never is."""
    files = PageFiles(tmp_path / "damaged", 2**20)
    of = put(files, 5)
    path = tmp_path / "damaged" / f"{of.hex()}.page"
    good = path.read_bytes()
    kind = data.draw(st.sampled_from(["change", "cut", "zero", "add", "other"]))
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = {
        "change": lambda: good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :],
        "cut": lambda: good[:at],
        "zero": lambda: good[:at] + bytes(len(good) - at),
        "add": lambda: good + data.draw(st.binary(min_size=1, max_size=50)),
        "other": lambda: data.draw(st.binary(max_size=3000)),
    }[kind]()
    path.write_bytes(damaged)
    failed = 0
    for local in (False, True):
        try:
            assert files.read(DECODER, of, 0, local) == halves(0, 5)[local]
        except StateError:
            failed += 1
    assert failed or damaged == good
    assert not (failed and path.exists())
    files.close()


def test_what_cannot_be_read_is_not_tried_again(files, folder, monkeypatch):
    of = put(files, 1)
    (folder / f"{of.hex()}.page").write_bytes(b"foreign")

    def refuse(self, missing_ok=False):
        raise PermissionError("a folder that may not be written")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StateError):
        files.read(DECODER, of, 0, False)
    assert not files.has(of)


def test_a_failed_write_leaves_nothing_and_breaks_nothing(files, folder, monkeypatch):
    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    assert files.offer(key(1), 0, time.time_ns(), *halves())
    assert files.flush(20)
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    assert not files.offer(key(2), 0, time.time_ns(), *halves())  # not before the allowance has grown again


def test_a_nearly_full_disk_is_left_alone(files, folder, monkeypatch):
    monkeypatch.setattr(cache, "FREE_BYTES", 2**70)
    assert files.offer(key(1), 0, time.time_ns(), *halves())
    assert files.flush(20)
    assert not files.has(key(1))


def test_the_oldest_files_go_when_there_are_too_many_bytes(folder):
    files = PageFiles(folder, 40 * FILE_BYTES)
    for number in range(30):
        put(files, number)
    files.used([key(0)])
    files.flush(20)
    for number in range(30, 60):
        files._allowance = 1e9
        put(files, number)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 40 * FILE_BYTES
    assert files.has(key(0)) and files.has(key(59)) and not files.has(key(1))
    files.close()


@pytest.mark.parametrize("used", [False, True])
def test_pages_behind_go_before_those_in_front(files, folder, used):
    """A page is of no use without those before it, so of one prompt the last pages are the oldest."""
    began = time.time_ns()
    for index in range(10):
        put(files, index, index, began)
    if used:
        files.used([key(index) for index in range(10)])
        files.flush(20)
    evict(folder, 5 * FILE_BYTES)
    left = [files.has(key(index)) for index in range(10)]
    assert 0 < sum(left) <= 5 and left == sorted(left, reverse=True)


def test_a_process_writes_no_more_than_its_allowance(folder):
    files = PageFiles(folder, 10_000)
    taken = [files.offer(key(number), 0, time.time_ns(), *halves()) for number in range(100)]
    assert sum(taken) == 10_000 // 1024
    files._refilled -= 3600  # an hour later
    assert files.offer(key(200), 0, time.time_ns(), *halves())
    files.close()


def test_a_slow_disk_costs_pages_and_no_memory(folder, monkeypatch):
    monkeypatch.setattr(cache, "QUEUE_BYTES", 3000)
    files = PageFiles(folder, 2**20)
    monkeypatch.setattr(files, "_do", lambda job: time.sleep(0.2))
    assert [files.offer(key(number), 0, time.time_ns(), *halves()) for number in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    monkeypatch.setattr(cache, "SECONDS_TO_WRITE", 0.0)
    files.close()
    assert not files.offer(key(5), 0, time.time_ns(), *halves())


def test_what_crashes_left_behind_goes_and_foreign_files_stay(files, folder):
    put(files, 1)
    names = (f".{key(2).hex()}.page.a.part", f".{key(3).hex()}.page.b.part", "notes")
    old, new, foreign = (folder / name for name in names)
    for path in (old, new, foreign):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    os.utime(foreign, (1, 1))
    assert evict(folder, 2**20) == next(p for p in folder.iterdir() if p.suffix == ".page").stat().st_size
    assert not old.exists() and new.exists() and foreign.exists()
    assert clear(folder) == 1
    assert foreign.exists() and not files.has(key(1))
    assert clear(folder / "none") == 0


def busy(folder: Path, seed: int, wrong) -> None:
    """Write, read, use and evict the same few pages as others do."""
    rng = random.Random(seed)
    files = PageFiles(folder, 8 * FILE_BYTES)
    for _ in range(400):
        number = rng.randrange(16)
        files._allowance = 1e9
        if rng.random() < 0.5:
            files.offer(key(number), 0, time.time_ns(), *halves(0, number))
        elif files.has(key(number)):
            try:
                if get(files, key(number)) != [*halves(0, number)]:
                    wrong.value += 1
            except StateError as error:  # another process was quicker to remove it
                if "cannot be read" not in str(error):
                    wrong.value += 1
            files._bad.clear()
        if rng.random() < 0.05:
            files.used([key(number)])
    files.close()


def test_several_processes_at_once(folder):
    """Nobody reads anything torn, and the folder stays bounded."""
    context = multiprocessing.get_context("spawn")
    wrong = context.Value("i", 0)
    workers = [context.Process(target=busy, args=(folder, seed, wrong)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert wrong.value == 0
    left = list(folder.iterdir())
    assert left and all(path.suffix == ".page" for path in left)
    assert (
        sum(path.stat().st_size for path in left) <= (8 + 3) * FILE_BYTES
    )  # an eighth each unseen by the others


def test_keys_are_a_chain():
    ids = list(range(200))
    chain = Chain(b"root")
    keys = [chain.key(index, ids) for index in range(3)]
    assert keys[2] == Chain(b"root").key(2, ids[:192])
    assert len({*keys, Chain(b"other").key(0, ids), Chain(b"root").key(1, [7, *ids[1:]])}) == 5


def test_roots_are_what_changes_bits():
    manifest = Manifest("m", "w", "t", None, None, "q", "a", "f16", 1.5, "avx2", "1")
    root = root_key(manifest, "build")
    assert root != root_key(manifest, "another")
    for name, value, changes in (
        ("weights_sha256", "x", True),
        ("adapter_sha256", "x", True),
        ("instruction_set", "x", True),
        ("embedding_scale", 2.5, True),
        ("engine_version", "2", True),
        ("tokenizer_sha256", "x", False),  # ids are what is read, however they were made
        ("model", "x", False),
    ):
        other = Manifest(**{**vars(manifest), name: value})
        assert (root_key(other, "build") != root) == changes, name
