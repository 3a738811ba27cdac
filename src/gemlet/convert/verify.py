"""A written model read again and compared with what was meant: every value, and all that is said of them.

What was meant is taken from the source anew, not from what the writers made of it: a tensor in another's
place, a norm that is off by one or a wrong stop id is found whatever the writers believe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.convert.tensors import Rows, row_slices, values_of
from gemlet.errors import GemletError
from gemlet.formats.tensors import KINDS, Tensor
from gemlet.model.families import FAMILIES
from gemlet.model.sources import Source, open_source
from gemlet.text.byte_level import read_byte_pieces
from gemlet.text.pieces import CONTROL, UNKNOWN, checked, write_model
from gemlet.text.tokenizer import Tokenizer
from gemlet.text.vocabulary import read_pieces

Array = NDArray[np.float32]


class ExportFaultError(GemletError):
    """What was written is not what was meant: it does not get its name."""

    def __init__(self, problem: str) -> None:
        hint = "nothing was written. This is a defect in gemlet: please report it, with the command"
        super().__init__(f"what was written failed its check: {problem}", hint=hint)


@dataclass(frozen=True)
class TensorError:
    """How far a tensor is from what was meant: root mean square of the error, relative to the values."""

    name: str
    kind: str
    error: float


def verify(path: Path, source: Source, changed: Mapping[str, Rows]) -> list[TensorError]:
    """Compare a written file or folder with its source; `changed` are the values of merged tensors.

    Returns the error of every tensor. Raises ExportFaultError that says what differs, ModelFileError where
    the result cannot even be opened.
    """
    again = open_source(path)
    if differing := description_differences(source, again):
        raise ExportFaultError("; ".join(differing))
    errors = []
    for name, tensor in source.tensors.items():
        values = changed.get(name, values_of(tensor))
        exact = name not in changed and tensor.kind == again.tensors[name].kind
        shifts = source.norm_offset, again.norm_offset
        norm = len(tensor.shape) == 1
        error = _compare(name, values, again.tensors[name], shifts if norm else (0.0, 0.0), exact)
        errors.append(TensorError(name, again.tensors[name].kind, error))
    return errors


def _compare(name: str, meant: Rows, found: Tensor, shifts: tuple[float, float], exact: bool) -> float:
    """The relative error of a tensor. Raises ExportFaultError where a value is further off than its kind."""
    square = total = 0.0
    bound = _BOUNDS[found.kind] if not exact else lambda values: np.zeros_like(values)
    stored = values_of(found)
    ours, theirs = (np.float32(shift) for shift in shifts)
    for start, stop in row_slices(found.shape):
        values = meant(start, stop) + ours
        error = np.abs(stored(start, stop) + theirs - values)
        room = bound(values - theirs)  # rounding is of what is stored
        if ours != theirs:
            room = room + np.float32(2.0**-23) * np.maximum(np.abs(values), 1)
        wrong = np.argwhere(~(error <= room))
        if len(wrong):
            row, column = wrong[0].tolist()
            raise ExportFaultError(
                f"tensor {name}: row {start + row}, column {column} is off by {error[row, column]:.4g} "
                f"from {values[row, column]:.4g}, which {found.kind} does not explain"
            )
        square += float(np.vdot(error, error))
        total += float(np.vdot(values, values))
    return float(np.sqrt(square / total)) if total else float(np.sqrt(square))


def _of_value(share: float, least: float) -> Callable[[Array], Array]:
    return lambda values: np.abs(values) * np.float32(share) + np.float32(least)


def _of_block(share: float, least: float) -> Callable[[Array], Array]:
    """A share of the largest magnitude of each group of 32."""

    def bound(values: Array) -> Array:
        groups = np.abs(values).reshape(len(values), -1, 32)
        room = groups.max(axis=-1, keepdims=True) * np.float32(share) + np.float32(least)
        return np.broadcast_to(room, groups.shape).reshape(values.shape)

    return bound


_HALF = 2.0**-11
"""Relative rounding of a half float, which scales are."""

_BOUNDS = {
    "F32": _of_value(2.0**-23, 0),
    "F16": _of_value(_HALF, 2.0**-24),
    "BF16": _of_value(2.0**-8, 1e-38),
    # Half a step of amax/127, or of a fitted scale of up to 1.3 times that, and what rounding the scale does
    # to 127 steps; the least scale is 2^-24.
    "Q8_0": _of_block(1.01 * (1.3 * 0.5 / 127 + _HALF), 128 * 2.0**-24),
    # A step is amax/8; a value as large as the largest, of the other sign, is one off. A search for better
    # scales may cut off another step.
    "Q4_0": _of_block(1.01 * (2 / 8 + _HALF), 8 * 2.0**-24),
}
_BOUNDS |= {kind: _of_value(0, 0) for kind in KINDS if kind not in _BOUNDS}


def description_differences(source: Source, again: Source) -> list[str]:
    """What the two say differently: configuration, stop ids, sampling, template, tokenizer."""
    found = [f"read again, {line}" for line in again.facts.corrections]
    for field, value in vars(source.config).items():
        other = getattr(again.config, field)
        if not _same(source, field, value, other):
            found.append(f"{field} is {other}, and was {value}")
    if again.facts.chat_template != source.facts.chat_template:
        found.append("the chat template is another one")
    ours, theirs = vars(source.facts.sampling), vars(again.facts.sampling)
    found += [
        f"sampling: {name} is {theirs[name]}, and was {value}"
        for name, value in ours.items()
        if name != "logit_bias" and np.float32(value) != np.float32(theirs[name])
    ]
    if _tokenizer(source) != _tokenizer(again):
        found.append("the tokenizer is another one")
    return found


def _same(source: Source, field: str, value: Any, other: Any) -> bool:
    """Whether two configurations agree in a field, as far as a file can say it."""
    if isinstance(value, float):
        return bool(np.float32(value) == np.float32(other))
    if field == "rope_divisors":  # float32 in one format, in the other what they are computed from
        return len(value) == len(other) and np.allclose(value, other, rtol=2.0**-20, atol=0)
    if field == "stop_ids":
        return set(other) <= set(value) <= set(other) | named_ends(source)
    return bool(value == other)


def named_ends(source: Source) -> set[int]:
    """Ids that end an answer and that a family is known to have by their names: no file need state them."""
    names = FAMILIES[source.config.family].stop_names
    if not names:
        return set()
    tokenizer = Tokenizer.from_source(source.facts.tokenizer)
    return {id for id in map(tokenizer.control_id, names) if id is not None}


def _tokenizer(source: Source) -> bytes | dict[str, Any]:
    """The pieces in the one form that a vocabulary has, whatever file it is in."""
    tokenizer = source.facts.tokenizer
    if tokenizer.algorithm == "byte-bpe":
        pieces = read_byte_pieces(tokenizer)
        # An unknown piece is a control token like others: every byte has a piece of its own.
        types = [CONTROL if kind == UNKNOWN else kind for kind in pieces.types]
        return vars(pieces) | {
            "names": list(pieces.names),
            "types": types,
            "merges": list(map(tuple, pieces.merges)),
        }
    return write_model(checked(tokenizer.path, read_pieces(tokenizer)))
