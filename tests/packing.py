"""Weights for a decoder made straight from float32 arrays, without a file between."""

from __future__ import annotations

from collections.abc import Mapping

import gguf
import numpy as np

from gemlet.formats.tensors import Tensor
from gemlet.model.weights import Weights
from gemlet.ops.packed import pack
from tests.synthetic import stored


def packed_weights(
    tensors: Mapping[str, np.ndarray], kinds: Mapping[str, str] | str = "F32", seed: int = 0
) -> Weights:
    """`kinds`: the storage kind of every matrix, or of each by the last part of its name ("*" for the rest).

    A quantised kind holds values near the given ones; the K kinds hold random ones of their own.
    """
    rng = np.random.default_rng(seed)
    table = {"*": kinds} if isinstance(kinds, str) else kinds
    packed = {}
    for name, values in tensors.items():
        if values.ndim == 2:
            kind = table.get(name.split(".")[-1]) or table["*"]
            block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
            assert values.shape[1] % block == 0, f"{name}: {kind} needs columns in blocks of {block}"
            packed[name] = pack(Tensor(name, kind, values.shape, stored(values, kind, rng).reshape(-1)))
    vectors = {name: values for name, values in tensors.items() if values.ndim == 1}
    return Weights(packed=packed, vectors=vectors, sha256="0" * 64, weights_type="test")
