"""Safetensors files: read as the library reads them, written as the library accepts, strict about headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gemlet.errors import ModelFileError
from gemlet.formats.safetensors import Writer, read_arrays, read_safetensors, write_safetensors

FOUR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def written(folder: Path, header: Any, data: bytes = b"\0" * 16, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def some_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "codes": rng.integers(0, 256, (3, 5, 4), dtype=np.uint8),
        "odd": rng.integers(0, 256, 7, dtype=np.uint8),
        "halves": rng.standard_normal((3, 16)).astype(np.float16),
        "floats": rng.standard_normal((9, 16)).astype(np.float32),
        "bits": rng.integers(0, 1 << 16, (2, 3), dtype=np.uint16),
        "ends": np.arange(5, dtype=np.int64),
        "nothing": np.empty(0, np.int32),
    }


def test_what_is_written_opens_with_the_library(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "packed.safetensors"
    write_safetensors(path, some_arrays(), {"note": 'ä " \\'})
    theirs = load_file(path)
    for name, array in some_arrays().items():
        assert theirs[name].dtype == array.dtype
        assert np.array_equal(theirs[name], array)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"note": 'ä " \\'}


def test_arrays_are_mapped_aligned_and_read_only(tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    write_safetensors(path, some_arrays(), {})
    arrays, metadata = read_arrays(path)
    assert metadata == {} and list(arrays) == list(some_arrays())
    for name, array in some_arrays().items():
        assert np.array_equal(arrays[name], array) and arrays[name].dtype == array.dtype
        assert not arrays[name].flags.writeable
        assert arrays[name].ctypes.data % 64 == 0 or not array.size


def test_arrays_can_be_written_in_parts_and_in_any_order(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    with open(tmp_path / "file", "w+b") as file:
        layouts = {"b": (np.dtype("u1"), (3,)), "a": (rows.dtype, rows.shape)}
        writer = Writer(file, layouts, {"hash": "0" * 64})
        writer.write("a", rows[4:], 4)
        writer.write("b", np.array([1, 2, 3], np.uint8))
        writer.write("a", rows[:4])
        writer.finish({"hash": "ab" * 32})
    arrays, metadata = read_arrays(tmp_path / "file")
    assert metadata == {"hash": "ab" * 32}
    assert np.array_equal(arrays["a"], rows) and arrays["b"].tolist() == [1, 2, 3]


def test_metadata_may_not_outgrow_its_place(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+b") as file:
        writer = Writer(file, {"a": (np.dtype("u1"), (3,))}, {"x": ""})
        with pytest.raises(ValueError, match="grown"):
            writer.finish({"x": "y" * 100})


def test_a_checkpoint_of_the_library_is_read(tmp_path: Path) -> None:
    arrays = {"w": np.ones((3, 5), np.float32), "h": np.arange(4, dtype=np.float16)}
    save_file(arrays, tmp_path / "model.safetensors", {"format": "pt"})
    tensors, metadata = read_safetensors(tmp_path / "model.safetensors")
    assert metadata == {"format": "pt"}
    assert (tensors["w"].kind, tensors["w"].shape) == ("F32", (3, 5))
    assert (tensors["h"].kind, tensors["h"].shape) == ("F16", (4,))
    for name, array in arrays.items():
        assert tensors[name].data.tobytes() == array.tobytes()
        assert not tensors[name].data.flags.writeable


def test_bf16_comes_out_raw(tmp_path: Path) -> None:
    header = {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    path = written(tmp_path, header, b"\x80\x3f\x00\x40")
    assert read_safetensors(path)[0]["x"].kind == "BF16"
    assert read_arrays(path)[0]["x"].tolist() == [0x3F80, 0x4000]


def one(**changes: Any) -> dict[str, Any]:
    return {"x": {**FOUR, **changes}}


BAD_HEADERS = {
    "not JSON": (b"{", "header", "JSON"),
    "not an object": (b"[1]", "header", "object"),
    "not UTF-8": (b'{"\xff": 1}', "header", "JSON"),
    "NaN": (b'{"x": NaN}', "header", "NaN"),
    "a key twice": (b'{"x": 1, "x": 2}', "header", "twice"),
    "nested without end": (b'{"x":' * 100_000, "header", "nested"),
    "a number of ten thousand digits": (b'{"x": ' + b"9" * 10_000 + b"}", "header", "JSON"),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "x": FOUR}, "header '__metadata__'", "text"),
    "metadata that is a list": ({"__metadata__": [], "x": FOUR}, "header '__metadata__'", "text"),
    "a tensor that is no object": ({"x": 5}, "tensor 'x'", "described"),
    "a missing field": ({"x": {"dtype": "F32"}}, "tensor 'x'", "described"),
    "a field too many": (one(more=1), "tensor 'x'", "described"),
    "unknown type": (one(dtype="F4"), "tensor 'x'", "type"),
    "type that is no text": (one(dtype=["F32"]), "tensor 'x'", "type"),
    "negative dimension": (one(shape=[-2, -2]), "tensor 'x'", "shape"),
    "dimension that is a float": (one(shape=[2.0, 2]), "tensor 'x'", "shape"),
    "dimension that is true": (one(shape=[True, 4]), "tensor 'x'", "shape"),
    "huge dimension": (one(shape=[1 << 60, 4]), "tensor 'x'", "shape"),
    "too many dimensions": (one(shape=[1] * 9 + [4]), "tensor 'x'", "shape"),
    "one offset": (one(data_offsets=[0]), "tensor 'x'", "data_offsets"),
    "offsets backwards": (one(data_offsets=[16, 0]), "tensor 'x'", "bytes"),
    "too few bytes for the shape": (one(data_offsets=[0, 12]), "tensor 'x'", "bytes"),
    "a hole": ({"x": {**FOUR, "shape": [1], "data_offsets": [12, 16]}}, "tensor 'x'", "begin"),
    "an overlap": ({"x": FOUR, "y": {**FOUR, "shape": [1], "data_offsets": [12, 16]}}, "tensor 'y'", "begin"),
    "beyond the file": (one(shape=[2, 4], data_offsets=[0, 32]), "file", "describes"),
    "bytes left over": (one(shape=[2], data_offsets=[0, 8]), "file", "describes"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_bad_header_is_an_error_that_names_file_and_field(tmp_path: Path, name: str) -> None:
    header, field, problem = BAD_HEADERS[name]
    path = written(tmp_path, header)
    for read in (read_arrays, read_safetensors):
        with pytest.raises(ModelFileError) as caught:
            read(path)
        assert caught.value.path == str(path)
        assert caught.value.field == field
        assert problem in caught.value.problem


@pytest.mark.parametrize("length", [1 << 63, 1 << 30, 400])
def test_an_absurd_header_length_is_an_error(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelFileError, match="header length"):
        read_arrays(written(tmp_path, {"x": FOUR}, length=length))


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    whole = written(tmp_path, {"x": FOUR}).read_bytes()
    for length in range(len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            read_arrays(path)


@pytest.mark.parametrize(("dtype", "shape"), [("I64", [2]), ("F64", [2]), ("U8", [16])])
def test_a_checkpoint_holds_floats_only(tmp_path: Path, dtype: str, shape: list[int]) -> None:
    path = written(tmp_path, one(dtype=dtype, shape=shape))
    assert read_arrays(path)
    with pytest.raises(ModelFileError, match="supported are F32, F16, BF16"):
        read_safetensors(path)


def test_a_single_number_is_no_tensor_of_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="single number"):
        read_safetensors(written(tmp_path, one(shape=[], data_offsets=[0, 4]), b"\0" * 4))
