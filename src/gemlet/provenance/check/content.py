"""What is in the tensors: values that cannot be, dead tensors, norms off by one, a second head."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gemlet.formats.tensors import KINDS, Tensor
from gemlet.provenance.check.findings import Finding
from gemlet.provenance.check.traps import trap

_ROWS_AT_ONCE = 1 << 12
_LARGEST_HALF = 65504.0

_SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}
"""Where in a block its float16 scale is, and its minimum."""

_BELOW_ZERO = 0.08
"""Share of negative values in the norms of queries and keys. Of the 270M: 1.3 % of w + 1, 18.8 % of w."""


def values(tensor: Tensor, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Its values where each is stored by itself; of a quantised tensor its blocks' scales (and minima)."""
    kind = tensor.kind
    if kind == "BF16":
        return (rows.reshape(-1).view("<u2").astype(np.uint32) << 16).view(np.float32)
    if kind in ("F16", "F32"):
        return rows.reshape(-1).view({"F16": "<f2", "F32": "<f4"}[kind]).astype(np.float32, copy=False)
    blocks = rows.reshape(-1, KINDS[kind].nbytes)
    parts = [np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2") for at in _SCALES[kind]]
    return np.concatenate(parts).reshape(-1).astype(np.float32)


def check_values(where: str, tensors: Mapping[str, Tensor]) -> list[Finding]:
    """Tensors with NaN or infinity, dead ones, float16 ones at the end of their range; reads everything."""
    bad: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        finite, zero, largest = True, True, 0.0
        count = len(tensor.rows())
        for start in range(0, count, _ROWS_AT_ONCE):
            part = values(tensor, tensor.rows(start, start + _ROWS_AT_ONCE))
            finite = finite and bool(np.isfinite(part).all())
            zero = zero and not part.any()
            if tensor.kind == "F16" and finite and part.size:
                largest = max(largest, float(np.abs(part).max()))
        if tensor.kind == "F16" and (not finite or largest >= _LARGEST_HALF):
            bad.setdefault("half-overflow", []).append(name)
        elif not finite:
            bad.setdefault("not-finite", []).append(name)
        elif zero and ".lora_" not in name:  # an adapter's B begins at zero
            bad.setdefault("all-zero", []).append(name)
    what = {
        "half-overflow": "hold 65504 or infinity as float16",
        "not-finite": "hold NaN or infinity",
        "all-zero": "hold only zeros",
    }
    return [trap(id, where, f"{_listed(names)} {what[id]}") for id, names in bad.items()]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def check_norms(where: str, tensors: Mapping[str, Tensor], ready: bool) -> list[Finding]:
    """Whether norm weights are off by one. `ready`: the file's format holds w + 1 (GGUF), else w."""
    norms = {
        name: tensor for name, tensor in tensors.items() if name.removesuffix(".weight").endswith("norm")
    }
    if not norms:
        return []
    if ready:
        stored = np.concatenate([values(tensor, tensor.rows()) for tensor in norms.values()])
        offsets = [offset for offset in (0.0, 1.0, 2.0) if _in_bfloat16(stored - np.float32(offset))]
        if 1.0 in offsets:
            return []
        if offsets:
            missing = "1 was not added" if offsets[0] == 0.0 else "1 was added twice"
            return [trap("norm-offset", where, f"norm weights: {missing} to what the publisher's files hold")]
    inner = [
        values(tensor, tensor.rows())
        for name, tensor in norms.items()
        if name.removesuffix(".weight").endswith(("q_norm", "k_norm"))
    ]
    if not inner:
        return []
    share = float((np.concatenate(inner) < 0).mean())
    if ready and share > _BELOW_ZERO:
        what = f"{share:.0%} of the norms of queries and keys are negative, as before 1 is added"
        return [trap("norm-offset", where, what)]
    if not ready and min(float(part.min()) for part in inner) >= 0 and share == 0:
        what = "no norm of queries and keys is negative, as after 1 was added"
        return [trap("norm-offset", where, what)]
    return []


def _in_bfloat16(stored: NDArray[np.float32]) -> bool:
    """Whether nearly all of the values are bfloat16 numbers, as those of the publisher's files are."""
    return float(((stored.view(np.uint32) & 0xFFFF) == 0).mean()) > 0.99


def check_head(where: str, embedding: Tensor | None, head: Tensor | None) -> list[Finding]:
    """A second head beside the embedding, which this family ties."""
    if head is None:
        return []
    if embedding is not None and embedding.kind == head.kind and np.array_equal(embedding.data, head.data):
        return [trap("head-copied", where, f"{head.name} equals the embedding")]
    return [trap("head-untied", where, f"{head.name} is a tensor of its own")]
