"""Weights: a file's values exactly, conversions by the rule, and a cache that is never trusted blindly."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from safetensors.numpy import load_file

from gemlet.errors import InvalidRequestError, ModelFileError, ModelNotFoundError
from gemlet.formats.files import replaced_file
from gemlet.formats.safetensors import read_arrays, write_safetensors
from gemlet.model import weights as module
from gemlet.model.sources import open_source
from gemlet.model.weights import Loaded, load, load_weights, packed_path
from gemlet.ops.packed import unpack
from tests.formats.real_file import real_270m
from tests.synthetic import CHAT_TEMPLATE, tiny_config, write_tiny_gguf, write_tiny_hf

CONFIG = tiny_config(layers=2, hidden_size=256, intermediate_size=256, vocab_size=600)
MIXED = {
    "*": "Q4_0",
    "token_embd": "Q8_0",
    "attn_q": "Q4_K",
    "attn_k": "Q5_0",
    "attn_v": "Q6_K",
    "ffn_gate": "Q5_K",
    "ffn_up": "Q4_1",
    "ffn_down": "Q5_1",
}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def assert_exact(loaded: Loaded, wanted: dict[str, np.ndarray]) -> None:
    assert loaded.weights.packed.keys() | loaded.weights.vectors.keys() == wanted.keys()
    for name, values in wanted.items():
        ours = unpack(loaded.weights.packed[name]) if values.ndim == 2 else loaded.weights.vectors[name]
        assert same_bits(np.asarray(ours), values), name


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_tiny_gguf(tmp_path / "tiny.gguf", CONFIG, rng(), MIXED, chat_template=CHAT_TEMPLATE)
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("kinds", ["F32", "F16", MIXED])
def test_a_gguf_files_values_are_kept_exactly(tmp_path: Path, kinds: Any, cached: bool) -> None:
    wanted = write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), kinds)
    for _ in range(2):
        loaded = load(tmp_path / "m.gguf", cache_dir=tmp_path / "cache" if cached else None)
        assert_exact(loaded, wanted)
        assert loaded.notes == ()


@pytest.mark.parametrize(("dtype", "weights"), [("F32", "auto"), ("BF16", "stored"), ("BF16", "bf16")])
def test_a_folders_values_are_kept_exactly(tmp_path: Path, dtype: str, weights: str) -> None:
    wanted = write_tiny_hf(tmp_path / "m", CONFIG, rng(), dtype=dtype, shards=2)
    loaded = load(tmp_path / "m", weights, cache_dir=tmp_path / "cache")
    assert_exact(loaded, wanted)
    assert {matrix.format for matrix in loaded.weights.packed.values()} == {dtype.lower()}
    assert loaded.weights.weights_type == dtype and loaded.notes == ()


@pytest.mark.parametrize("weights", ["auto", "int8", "int4"])
def test_a_bf16_checkpoint_is_converted_by_the_rule(tmp_path: Path, weights: str) -> None:
    stored = write_tiny_hf(tmp_path / "m", CONFIG, rng())
    loaded = load(tmp_path / "m", weights, cache_dir=tmp_path / "cache")
    error = square = 0.0
    for name, matrix in loaded.weights.packed.items():
        int4 = weights == "int4" and name != "token_embd"
        rule = GGMLQuantizationType.Q4_0 if int4 else GGMLQuantizationType.Q8_0
        values = gguf.quants.dequantize(gguf.quants.quantize(stored[name], rule), rule)
        assert same_bits(unpack(matrix), values), name
        error += float(((values - stored[name]) ** 2).sum())
        square += float((stored[name] ** 2).sum())
    said = float(loaded.notes[0].split(" by ")[1].split(" %")[0])
    assert said == pytest.approx(100 * (error / square) ** 0.5, rel=0.06)  # two digits are printed
    assert loaded.weights.weights_type.split("+")[0].startswith("BF16 as int")


def test_matrices_that_do_not_fill_blocks_stay_dense(tmp_path: Path) -> None:
    config = tiny_config(layers=1, hidden_size=40, intermediate_size=64)
    stored = write_tiny_hf(tmp_path / "m", config, rng())
    packed = load(tmp_path / "m", cache_dir=None).weights.packed
    assert same_bits(unpack(packed["blk.0.attn_q"]), stored["blk.0.attn_q"])
    assert (packed["blk.0.attn_q"].format, packed["blk.0.ffn_down"].format) == ("bf16", "i8")


def test_an_int8_file_can_be_loaded_as_int4(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), "Q8_0")
    loaded = load(tmp_path / "m.gguf", "int4", cache_dir=None)
    assert loaded.weights.packed["blk.0.ffn_up"].format == "i4"
    assert loaded.weights.packed["token_embd"].format == "i8"
    assert len(loaded.notes) == 1


def test_an_unknown_type_is_refused_by_name(tiny: Path) -> None:
    with pytest.raises(InvalidRequestError, match="'fp8' is not one of auto"):
        load(tiny, "fp8", cache_dir=None)


def test_nothing_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load(tmp_path / "nothing.gguf", cache_dir=tmp_path)


# --- The cache


def test_the_next_start_reads_the_packed_file_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tiny.parent / "cache"
    first = load(tiny, cache_dir=cache)
    monkeypatch.setattr(module, "open_source", None)
    monkeypatch.setattr(module, "content_sha256", None)
    again = load(tiny, cache_dir=cache)
    assert vars(first.facts) | {"tokenizer": None} == vars(again.facts) | {"tokenizer": None}
    assert again.facts.tokenizer.sha256 == first.facts.tokenizer.sha256
    assert again.facts.tokenizer.vocabulary is not None and first.facts.tokenizer.vocabulary is not None
    assert again.facts.tokenizer.vocabulary.pieces() == first.facts.tokenizer.vocabulary.pieces()
    assert again.facts.chat_template == CHAT_TEMPLATE and again.facts.corrections
    assert again.weights.sha256 == first.weights.sha256 == hashlib.sha256(tiny.read_bytes()).hexdigest()


def test_facts_from_the_cache_are_those_of_the_source(tmp_path: Path) -> None:
    write_tiny_hf(tmp_path / "m", CONFIG, rng(), chat_template=CHAT_TEMPLATE)
    (tmp_path / "m" / "README.md").write_text("license: gemma\n")
    source = open_source(tmp_path / "m").facts
    for _ in range(2):
        facts = load(tmp_path / "m", cache_dir=tmp_path / "cache").facts
        for field in ("path", "format", "config", "chat_template", "sampling", "corrections", "licence"):
            assert getattr(facts, field) == getattr(source, field)
        assert vars(facts.tokenizer) == vars(source.tokenizer)


def test_the_hash_of_several_shards(tmp_path: Path) -> None:
    write_tiny_hf(tmp_path / "m", CONFIG, rng(), shards=2)
    names = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    lines = [f"{hashlib.sha256((tmp_path / 'm' / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    wanted = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert load(tmp_path / "m", cache_dir=tmp_path).weights.sha256 == wanted


def test_packed_arrays_are_mapped_and_aligned(tiny: Path) -> None:
    loaded = load(tiny, cache_dir=tiny.parent)
    path = packed_path(tiny, "auto", tiny.parent)
    assert load_file(path).keys() >= {"token_embd.quants", "output_norm"}  # the library opens it
    for matrix in loaded.weights.packed.values():
        for array in matrix.arrays.values():
            assert array.ctypes.data % 64 == 0 and not array.flags.writeable


def test_each_type_has_a_packed_file_of_its_own(tmp_path: Path) -> None:
    write_tiny_hf(tmp_path / "m", CONFIG, rng())
    formats = [load(tmp_path / "m", w, cache_dir=tmp_path).weights.packed["blk.0.ffn_up"].format
               for w in ("bf16", "int8", "int4", "bf16", "int8")]  # fmt: skip
    assert formats == ["bf16", "i8", "i4", "bf16", "i8"]
    assert len(list((tmp_path / "packed").iterdir())) == 3


def test_progress_rises_to_the_end(tiny: Path) -> None:
    calls: list[tuple[int, int]] = []
    load(tiny, cache_dir=tiny.parent, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls) and len({total for _, total in calls}) == 1
    assert calls[0][0] > 0 and calls[-1][0] > 0.9 * calls[-1][1] > 0
    count = len(calls)
    load(tiny, cache_dir=tiny.parent, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == count


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    arrays, metadata = read_arrays(path)
    copies = {name: array.copy() for name, array in arrays.items()}
    if how == "torn":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "header":
        data[8] ^= 1
        path.write_bytes(data)
    elif how == "foreign":
        write_safetensors(path, {"x": np.zeros(4, np.float32)}, {"format": "pt"})
    elif how == "other version":
        write_safetensors(path, copies, metadata | {"gemlet_packed": "0"})
    elif how == "other file":
        write_safetensors(path, copies, metadata | {"fingerprint": "0" * 64})
    elif how == "wrong shapes":
        copies["blk.0.attn_q.scales"] = copies["blk.0.attn_q.scales"][:1]
        write_safetensors(path, copies, metadata)
    elif how == "missing array":
        del copies["output_norm"]
        write_safetensors(path, copies, metadata)
    elif how == "strange matrices":
        write_safetensors(path, copies, metadata | {"matrices": '{"token_embd": 5}'})
    else:
        write_safetensors(path, copies, metadata | {"description": "[]"})


@pytest.mark.parametrize(
    "how",
    [
        "torn",
        "empty",
        "header",
        "foreign",
        "other version",
        "other file",
        "wrong shapes",
        "missing array",
        "strange matrices",
        "strange description",
    ],
)
def test_a_packed_file_that_does_not_fit_is_built_again(tmp_path: Path, how: str) -> None:
    wanted = write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), MIXED)
    load(tmp_path / "m.gguf", cache_dir=tmp_path)
    path = packed_path(tmp_path / "m.gguf", "auto", tmp_path)
    whole = path.read_bytes()
    damage(path, how)
    assert path.read_bytes() != whole
    assert_exact(load(tmp_path / "m.gguf", cache_dir=tmp_path), wanted)
    assert path.read_bytes() == whole


def test_a_changed_source_is_packed_again(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_tiny_gguf(path, CONFIG, rng(), "Q8_0")
    first = load(path, cache_dir=tmp_path)
    wanted = write_tiny_gguf(path, CONFIG, np.random.default_rng(1), "Q8_0")
    second = load(path, cache_dir=tmp_path)
    assert_exact(second, wanted)
    assert first.weights.sha256 != second.weights.sha256
    assert len(list((tmp_path / "packed").iterdir())) == 1


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer.model"])
def test_a_changed_companion_is_noticed(tmp_path: Path, file: str) -> None:
    write_tiny_hf(tmp_path / "m", CONFIG, rng())
    load(tmp_path / "m", cache_dir=tmp_path)
    packed = packed_path(tmp_path / "m", "auto", tmp_path)
    before = packed.stat().st_ino
    os.utime(tmp_path / "m" / file, ns=(1, 1))
    load(tmp_path / "m", cache_dir=tmp_path)
    assert packed.stat().st_ino != before


def test_a_cache_that_cannot_be_written_costs_a_line(tmp_path: Path) -> None:
    wanted = write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), MIXED)
    (tmp_path / "cache").write_text("a file where the folder should be")
    loaded = load(tmp_path / "m.gguf", cache_dir=tmp_path / "cache")
    assert_exact(loaded, wanted)
    assert len(loaded.notes) == 1 and "cannot be kept in" in loaded.notes[0]


def test_a_full_disk_costs_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def __init__(self, file: IO[bytes]) -> None:
            self.file, self.left = file, 100_000

        def write(self, data: Any) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    @contextmanager
    def full(path: Path) -> Iterator[Any]:
        with replaced_file(path) as file:
            yield FullDisk(file)

    wanted = write_tiny_gguf(tmp_path / "m.gguf", CONFIG, rng(), MIXED)
    monkeypatch.setattr(module, "replaced_file", full)
    loaded = load(tmp_path / "m.gguf", cache_dir=tmp_path / "cache")
    assert_exact(loaded, wanted)
    assert "No space left" in loaded.notes[0]
    assert os.listdir(tmp_path / "cache" / "packed") == []


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", ["blk.1.ffn_down", "blk.1.ffn_norm"])
def test_nan_is_refused_by_tensor_and_leaves_nothing(tmp_path: Path, name: str, cached: bool) -> None:
    path = tmp_path / "m.gguf"
    write_tiny_gguf(path, CONFIG, rng(), MIXED)
    source = open_source(path)
    with open(path, "r+b") as file:
        file.seek(path.read_bytes().index(source.tensors[name].data.tobytes()))
        file.write(b"\xff\xff\xff\xff")
    with pytest.raises(ModelFileError) as caught:
        load(path, cache_dir=tmp_path if cached else None)
    assert caught.value.field == f"tensor '{name}.weight'" and "NaN" in caught.value.problem
    assert not cached or os.listdir(tmp_path / "packed") == []


def test_a_source_that_changes_while_it_is_read_is_refused(tiny: Path) -> None:
    with pytest.raises(ModelFileError, match="changed while it was read"):
        load(tiny, cache_dir=tiny.parent, progress=lambda done, total: os.utime(tiny, ns=(done, done)))


def test_processes_that_pack_at_once_both_succeed(tiny: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gemlet.model.weights import load\n"
        "print(load(sys.argv[1], cache_dir=Path(sys.argv[2])).weights.sha256)"
    )
    command = [sys.executable, "-c", code, str(tiny), str(tiny.parent / "cache")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({worker.communicate()[0] for worker in workers}) == 1
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(os.listdir(tiny.parent / "cache" / "packed")) == 1


def test_load_weights_of_an_opened_source(tiny: Path) -> None:
    source = open_source(tiny)
    first, again = (load_weights(source, cache_dir=tiny.parent) for _ in range(2))
    assert first.sha256 == again.sha256 and first.packed.keys() == again.packed.keys()
    assert first.nbytes == sum(matrix.nbytes for matrix in again.packed.values())


def test_the_real_file_starts_warm_in_milliseconds(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = real_270m(folder)
    load(path, cache_dir=folder)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        loaded = load(path, cache_dir=folder)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.06
    assert loaded.weights.weights_type == "Q8_0+Q5_0+Q4_K+Q6_K"
    assert loaded.weights.sha256 == "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
