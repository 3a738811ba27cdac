"""The GGUF reader: equal to the gguf package on good files, a named error on every bad one."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from gemlet.errors import ModelFileError
from gemlet.formats import gguf as module
from gemlet.formats.gguf import Strings, read_gguf
from tests.formats.gguf_bytes import ARRAY, BOOL, F32, I32, STRING, U8, U32, U64, entry, file, key, string
from tests.formats.real_file import real_270m
from tests.synthetic import gguf_metadata, tiny_config, write_tiny_gguf


def written(folder: Path, data: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return path


def test_a_written_file_reads_as_it_was_written(tmp_path: Path) -> None:
    path, config = tmp_path / "tiny.gguf", tiny_config(layers=1)
    write_tiny_gguf(path, config, np.random.default_rng(0), {"*": "Q4_0", "token_embd": "Q8_0"})
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        read = ours.tensors[tensor.name]
        assert read.kind == tensor.tensor_type.name
        assert read.shape == tuple(reversed(tensor.shape.tolist()))
        assert read.data.tobytes() == tensor.data.tobytes()
        assert not read.data.flags.writeable
    for name, wanted in gguf_metadata(config).items():
        value = ours.metadata[name]
        if isinstance(value, Strings):
            assert [piece.decode() for piece in value] == wanted
        elif isinstance(value, np.ndarray):
            assert np.array_equal(value, np.array(wanted, value.dtype))
        else:
            assert value == (np.float32(wanted) if isinstance(wanted, float) else wanted)


def test_a_file_that_was_cut_off_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(layers=1), np.random.default_rng(0))
    whole = path.read_bytes()
    for size in (len(whole) - 1000, 300):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError) as caught:
            read_gguf(path)
        assert "incomplete download" in (caught.value.hint or "")


def test_every_value_type_is_read(tmp_path: Path) -> None:
    keys = [
        key("u8", U8, 200),
        key("i32", I32, -5),
        key("f32", F32, 0.5),
        key("no", BOOL, 0),
        key("big", U64, 1 << 63),
        key("text", STRING, "a€"),
        key("numbers", ARRAY, (I32, [1, -2, 3])),
        key("flags", ARRAY, (BOOL, [1, 0])),
        key("texts", ARRAY, (STRING, ["", "x" * 300, "€", ""])),
        key("none", ARRAY, (STRING, [])),
        key("nested", ARRAY, (ARRAY, [(U8, [1]), (STRING, ["y"])])),
    ]
    read = read_gguf(written(tmp_path, file(keys))).metadata
    assert read["u8"] == 200 and read["i32"] == -5 and read["f32"] == 0.5 and read["no"] is False
    assert read["big"] == 1 << 63 and read["text"] == "a€"
    assert read["numbers"].tolist() == [1, -2, 3] and read["flags"].tolist() == [True, False]
    assert list(read["texts"]) == [b"", b"x" * 300, "€".encode(), b""] and len(read["none"]) == 0
    assert read["nested"][0].tolist() == [1] and list(read["nested"][1]) == [b"y"]


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path: Path, version: int) -> None:
    assert list(read_gguf(written(tmp_path, file(version=version))).tensors) == ["a", "b"]


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment_is_taken_from_the_file(tmp_path: Path, alignment: int) -> None:
    keys = [key("general.alignment", U32, alignment)]
    entries = [entry("a", [2]), entry("b", [2], 0, alignment)]
    data = np.zeros(alignment // 4 + 2, "<f4")
    data[-2:] = [5, 6]
    path = written(tmp_path, file(keys, entries, data.tobytes(), alignment=alignment))
    assert read_gguf(path).tensors["b"].data.view("<f4").tolist() == [5, 6]


HUGE = (1 << 64) - 1
BAD = {
    "wrong magic": (file(magic=b"GGML"), "header", "magic"),
    "version 1": (file(version=1), "header", "version 1"),
    "big-endian": (file(version=3 << 24), "header", "big-endian"),
    "absurd tensor count": (file(tensor_count=HUGE), "tensor count", "more than"),
    "tensor count beyond the file": (file(tensor_count=60_000), "tensor count", "can hold"),
    "absurd key count": (file(key_count=HUGE), "metadata count", "more than"),
    "key count beyond the file": (file(key_count=60_000), "metadata count", "can hold"),
    "one key too many": (file(key_count=2, entries=[]), "metadata key 1", "empty name"),
    "key twice": (file([key("a", U8, 1), key("a", U8, 1)]), "metadata 'a'", "twice"),
    "key not UTF-8": (file([key(b"\xff", U8, 1)]), "metadata key 0", "UTF-8"),
    "text not UTF-8": (file([key("a", STRING, b"\xff")]), "metadata 'a'", "UTF-8"),
    "absurd key length": (file([struct.pack("<Q", HUGE) + b"\0" * 9]), "metadata key 0", "string of"),
    "absurd text length": (
        file([string("a") + struct.pack("<IQ", STRING, 1 << 27)]),
        "metadata 'a'",
        "past the end",
    ),
    "unknown value type": (file([string("a") + struct.pack("<IQ", 13, 0)]), "metadata 'a'", "value type 13"),
    "not a truth value": (file([key("a", BOOL, 2)]), "metadata 'a'", "neither"),
    "absurd array": (
        file([string("a") + struct.pack("<IIQ", ARRAY, U8, HUGE)]),
        "metadata 'a'",
        "counts",
    ),
    "array beyond the file": (
        file([string("a") + struct.pack("<IIQ", ARRAY, U64, 1000)]),
        "metadata 'a'",
        "can hold",
    ),
    "strings beyond the file": (
        file([string("a") + struct.pack("<IIQ", ARRAY, STRING, 20) + b"\xff" * 80]),
        "metadata 'a'",
        "",
    ),
    "string in an array with a huge length": (
        file([string("a") + struct.pack("<IIQ", ARRAY, STRING, 2) + struct.pack("<QQ", 1 << 40, 0)]),
        "metadata 'a'",
        "past the end",
    ),
    "arrays nested too deeply": (
        file([string("a") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 8]),
        "metadata 'a'",
        "nested",
    ),
    "alignment not a power of two": (
        file([key("general.alignment", U32, 48)]),
        "metadata 'general.alignment'",
        "power of two",
    ),
    "alignment not a number": (
        file([key("general.alignment", STRING, "32")]),
        "metadata 'general.alignment'",
        "power of two",
    ),
    "tensor twice": (file(entries=[entry("a", [8]), entry("a", [8], 0, 32)]), "tensor 'a'", "twice"),
    "no dimensions": (file(entries=[entry("a", [])]), "tensor 'a'", "dimensions"),
    "too many dimensions": (file(entries=[entry("a", [1] * 5)]), "tensor 'a'", "dimensions"),
    "dimension zero": (file(entries=[entry("a", [8, 0])]), "tensor 'a'", "shape"),
    "absurd dimension": (file(entries=[entry("a", [HUGE, HUGE])]), "tensor 'a'", "shape"),
    "unknown kind": (file(entries=[entry("a", [256], 10)]), "tensor 'a'", "storage kind 10"),
    "rows that do not fill blocks": (file(entries=[entry("a", [33], 2)]), "tensor 'a'", "blocks"),
    "offset not aligned": (file(entries=[entry("a", [8], 0, 4)]), "tensor 'a'", "multiple"),
    "absurd offset": (file(entries=[entry("a", [8], 0, 1 << 62)]), "tensor 'a'", "past the end"),
    "tensor beyond the file": (file(entries=[entry("a", [1000])]), "tensor 'a'", "past the end"),
    "overlapping tensors": (
        file(entries=[entry("a", [9], 0, 0), entry("b", [8], 0, 32)]),
        "tensor 'b'",
        "overlaps tensor 'a'",
    ),
    "the same place twice": (file(entries=[entry("a", [8]), entry("b", [8])]), "tensor 'b'", "overlaps"),
    "control characters in a name": (file(entries=[entry("a\x1b[2J", [0])]), r"tensor 'a\x1b[2J'", "shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_an_error_that_names_file_and_field(tmp_path: Path, name: str) -> None:
    data, field, problem = BAD[name]
    path = written(tmp_path, data)
    with pytest.raises(ModelFileError) as caught:
        read_gguf(path)
    assert caught.value.path == str(path)
    assert field in caught.value.field
    assert problem in caught.value.problem


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    whole = file([key("a", ARRAY, (STRING, ["x", "y"])), key("b", STRING, "text")], data=b"\1" * 64)
    assert read_gguf(written(tmp_path, whole)).tensors
    for length in range(len(whole)):
        with pytest.raises(ModelFileError):
            read_gguf(written(tmp_path, whole[:length]))


def test_what_is_no_regular_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ModelFileError) as caught:
            read_gguf(path)
        assert caught.value.field == "file"


def test_empty_strings_cost_little_each(tmp_path: Path) -> None:
    """With the limit on their number this bounds what a hostile file can make us allocate."""
    count = 1 << 17
    data = string("a") + struct.pack("<IIQ", ARRAY, STRING, count) + b"\0" * (8 * count)
    path = written(tmp_path, file([data]))
    tracemalloc.start()
    assert len(read_gguf(path).metadata["a"]) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * count
    assert 150 * module.MAX_STRINGS < 400e6


def test_too_many_strings_are_refused(tmp_path: Path) -> None:
    count = module.MAX_STRINGS + 1
    data = string("a") + struct.pack("<IIQ", ARRAY, STRING, count) + b"\0" * (8 * count)
    with pytest.raises(ModelFileError, match="more than"):
        read_gguf(written(tmp_path, file([data])))


def test_many_small_inner_arrays_are_refused(tmp_path: Path) -> None:
    inner = struct.pack("<IQ", U8, 0)
    data = string("a") + struct.pack("<IIQ", ARRAY, ARRAY, 70_000) + inner * 70_000
    with pytest.raises(ModelFileError):
        read_gguf(written(tmp_path, file([data])))


def test_the_real_vocabulary_is_read_quickly(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = real_270m(tmp_path_factory.getbasetemp())
    times = []
    for _ in range(3):
        started = time.perf_counter()
        pieces = read_gguf(path).metadata["tokenizer.ggml.tokens"]
        times.append(time.perf_counter() - started)
    assert len(pieces) == 262_144 and pieces[106] == b"<end_of_turn>" and pieces[167] == b" " * 31
    assert min(times) < 0.5  # 0.04 s on an idle machine
