"""Model files of Gemma 3 270M's true shape, good ones and ones with a known trap, without its weights.

Files of the true shape are sparse: their tensors are zeros that take no room, to be checked without reading.
Small ones have real contents and the true vocabulary, but one narrow layer.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gemlet.formats.gguf import GgufFile, read_gguf
from gemlet.formats.tensors import KINDS
from gemlet.model.sources import open_source
from tests.formats.gguf_bytes import ARRAY, BOOL, F32, STRING, U32, entry, key, string
from tests.synthetic import hf_config, hf_name, shapes

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]
KIND_OF = {bool: BOOL, int: U32, float: F32, str: STRING}


@dataclass(frozen=True)
class Corpus:
    """Writes files after the real one at `path`."""

    path: Path

    @cached_property
    def real(self) -> GgufFile:
        return read_gguf(self.path)

    @cached_property
    def keys(self) -> dict[str, bytes]:
        """Every key of a good base model's file, as bytes."""
        keys = {
            name: key(name, KIND_OF[type(value)], value)
            for name, value in self.real.metadata.items()
            if type(value) in KIND_OF
        }
        tokens = self.real.metadata["tokenizer.ggml.tokens"]
        self.add_strings(keys, "tokenizer.ggml.tokens", list(tokens))
        for name, kind in (("scores", F32), ("token_type", 5)):
            array = self.real.metadata[f"tokenizer.ggml.{name}"]
            self.add_array(keys, f"tokenizer.ggml.{name}", kind, array)
        return keys | {"general.file_type": key("general.file_type", U32, 7)}

    @staticmethod
    def add_strings(keys: dict[str, bytes], name: str, items: list[bytes]) -> None:
        joined = b"".join(map(string, items))
        keys[name] = string(name) + struct.pack("<IIQ", ARRAY, STRING, len(items)) + joined

    @staticmethod
    def add_array(keys: dict[str, bytes], name: str, kind: int, array: np.ndarray) -> None:
        keys[name] = string(name) + struct.pack("<IIQ", ARRAY, kind, len(array)) + array.tobytes()

    def changed(self, changes: Mapping[str, Any]) -> dict[str, bytes]:
        """The keys with changes: a value, bytes that are the whole key, or None to leave it out."""
        keys = dict(self.keys)
        for name, value in changes.items():
            if value is None:
                keys.pop(name, None)
            else:
                keys[name] = value if isinstance(value, bytes) else key(name, KIND_OF[type(value)], value)
        return keys

    def shaped(self, path: Path, changes: Mapping[str, Any], kinds: Mapping[str, str] | None = None) -> Path:
        """A file of the true shape. `kinds`: of tensors, where not the real file's; a new name is added."""
        kinds = kinds or {}
        listed = {name: (kinds.get(name, t.kind), t.shape, 0) for name, t in self.real.tensors.items()}
        listed |= {name: (kind, (262144, 640), 0) for name, kind in kinds.items() if name not in listed}
        entries, end = self._table({name: (kind, shape) for name, (kind, shape, _) in listed.items()})
        head = self._head(self.changed(changes), entries)
        with path.open("wb") as file:
            file.write(head)
            os.ftruncate(file.fileno(), len(head) + end)
        return path

    def small(self, path: Path, changes: Mapping[str, Any], tensors: Mapping[str, tuple[str, Any]]) -> Path:
        """A small file with contents; `tensors` replaces some (kind, array), or adds them."""
        sizes = {
            "embedding_length": 32,
            "block_count": 1,
            "feed_forward_length": 64,
            "attention.head_count": 1,
        }
        keys = self.changed({f"gemma3.{name}": size for name, size in sizes.items()} | dict(changes))
        listed: Tensors = self._small_tensors | {
            name: (kind, np.asarray(array).shape, self.stored(kind, array))
            for name, (kind, array) in tensors.items()
        }
        entries, _ = self._table({name: (kind, shape) for name, (kind, shape, _) in listed.items()})
        data = b"".join(content + b"\0" * (-len(content) % 32) for _, _, content in listed.values())
        path.write_bytes(self._head(keys, entries) + data)
        return path

    @staticmethod
    def stored(kind: str, array: np.ndarray) -> bytes:
        if kind == "Q8_0":
            blocks = np.zeros((array.size // 32, 34), np.uint8)
            blocks[:, :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
            blocks[:, 2:] = np.clip(array.reshape(-1, 32) * 100, -127, 127).astype(np.int8).view(np.uint8)
            return blocks.tobytes()
        return array.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()

    @cached_property
    def _small_tensors(self) -> Tensors:
        rng = np.random.default_rng(5)
        matrices = {
            "token_embd": (262144, 32),
            "blk.0.attn_q": (256, 32),
            "blk.0.attn_k": (256, 32),
            "blk.0.attn_v": (256, 32),
            "blk.0.attn_output": (32, 256),
            "blk.0.ffn_gate": (64, 32),
            "blk.0.ffn_up": (64, 32),
            "blk.0.ffn_down": (32, 64),
        }
        tensors: Tensors = {
            f"{name}.weight": ("Q8_0", shape, self.stored("Q8_0", rng.standard_normal(shape, np.float32)))
            for name, shape in matrices.items()
        }
        for name, width in small_norms().items():
            tensors[name] = "F32", (width,), self.stored("F32", norm(width) + 1)
        return tensors

    @staticmethod
    def _table(listed: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[list[bytes], int]:
        entries, at = [], 0
        for name, (kind, shape) in listed.items():
            entries.append(entry(name, list(shape[::-1]), KINDS[kind].gguf_id, at))
            size = prod(shape) // KINDS[kind].block * KINDS[kind].nbytes
            at += size + -size % 32
        return entries, at

    @staticmethod
    def _head(keys: Mapping[str, bytes], entries: list[bytes]) -> bytes:
        head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(keys))
        head += b"".join(keys.values()) + b"".join(entries)
        return head + b"\0" * (-len(head) % 32)

    def folder(
        self, folder: Path, files: Mapping[str, Any], changes: Mapping[str, Any], template: str
    ) -> Path:
        """A checkpoint of the true shape: `changes` to config.json (... leaves one out), other JSON files."""
        folder.mkdir(parents=True, exist_ok=True)
        config = open_source(self.path).config
        values = hf_config(config, old_style=True) | {"eos_token_id": [1, 106]} | dict(changes)
        documents = {
            "config.json": {name: value for name, value in values.items() if value is not ...},
            "generation_config.json": {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0},
            "tokenizer_config.json": {"eos_token": "<eos>", "chat_template": template},
        }
        for name, document in (documents | dict(files)).items():
            if document is not None and name.endswith(".json"):
                (folder / name).write_text(json.dumps(document))
        (folder / "tokenizer.model").write_bytes(b"stands in for the publisher's")
        header, at = {}, 0
        for name, shape in shapes(config).items():
            size = 2 * prod(shape)
            header[hf_name(name)] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            os.ftruncate(file.fileno(), 8 + len(text) + at)
        return folder


def small_norms() -> dict[str, int]:
    """Names and widths of a small file's norms."""
    wide = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    names = {f"blk.0.{name}.weight": 32 for name in wide} | {"output_norm.weight": 32}
    return names | {"blk.0.attn_q_norm.weight": 256, "blk.0.attn_k_norm.weight": 256}


def norm(width: int) -> np.ndarray:
    """Norm weights w as the publisher's files hold them: bfloat16, a fifth of them below zero."""
    values = (np.random.default_rng(width).standard_normal(width) + 0.8).astype(np.float32)
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
