"""The few shapes of a protobuf message that a SentencePiece model is made of."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint_field(number: int, value: int) -> bytes:
    """A field that holds an integer, a flag or an enum value."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """A field that holds a string or another message."""
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def float_field(number: int, value: float) -> bytes:
    return _varint(number << 3 | _FIXED32) + struct.pack("<f", value)


def read_fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Every field of a message in order, as (number, value). Raises ValueError where it is malformed."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _read_varint(message, position)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        start, position = position, position + length
        if position > end:
            raise ValueError(f"field {number} runs {position - end} bytes past the end")
        content = message[start:position]
        if kind == _BYTES:
            yield number, content
        else:
            yield number, struct.unpack("<f" if kind == _FIXED32 else "<d", content)[0]


_SMALL = [bytes([value]) for value in range(0x80)]


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SMALL[value]
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        digit = message[position]
        position += 1
        value |= (digit & 0x7F) << shift
        if digit < 0x80:
            return value, position
        shift += 7
    raise ValueError(f"a number is cut off or too long at byte {position}")
