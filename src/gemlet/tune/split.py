"""Lines dealt to training, validation and test so that what belongs together stays together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

SPLITS = ("train", "valid", "test")

_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Likeness:
    """What says whether lines are alike. exact: of equal texts. folded: of texts that differ in case, white
    space and digits only. group: as the data names it."""

    exact: bytes
    folded: bytes
    group: str | None


def likeness(texts: Sequence[str], group: str | None) -> Likeness:
    """Of a line with these texts."""
    folded = [_DIGITS.sub("0", " ".join(text.casefold().split())) for text in texts]
    return Likeness(_digest(texts), _digest(folded), group)


def deal(lines: Sequence[Likeness], *, seed: int, valid_share: float, test_share: float) -> list[str]:
    """The split of each line.

    Lines alike, or of one group, are never on two sides. Which sets go where follows from the seed and the
    texts, not from the order of lines. A share above 0 gets at least one set while others remain for
    training.
    """
    sets = _joined(lines)
    order = sorted(sets, key=lambda members: _rank(lines, members, seed))
    result = ["train"] * len(lines)
    for split, share in (("valid", valid_share), ("test", test_share)):
        taken: list[list[int]] = []
        room = max(1, round(share * len(lines))) if share > 0 else 0
        for members in order:
            if len(order) - len(taken) < 2:
                break
            if len(members) <= room:
                taken.append(members)
                room -= len(members)
        if not taken and share > 0 and len(order) > 1:
            taken = [min(order, key=len)]
        for members in taken:
            for i in members:
                result[i] = split
        order = [members for members in order if result[members[0]] == "train"]
    return result


def _joined(lines: Sequence[Likeness]) -> list[list[int]]:
    """Sets of lines that share a folded text or a group, directly or by way of others."""
    parents = list(range(len(lines)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    first: dict[bytes | str, int] = {}
    for i, line in enumerate(lines):
        for key in (line.folded, line.group):
            if key is not None:
                parents[root(i)] = root(first.setdefault(key, i))
    sets: dict[int, list[int]] = {}
    for i in range(len(lines)):
        sets.setdefault(root(i), []).append(i)
    return list(sets.values())


def _rank(lines: Sequence[Likeness], members: Sequence[int], seed: int) -> bytes:
    smallest = min(lines[i].folded for i in members)
    return hashlib.blake2b(smallest, key=str(seed).encode()[:64], digest_size=16).digest()


def _digest(texts: Sequence[str]) -> bytes:
    joined = "\0".join(texts).encode(errors="surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).digest()
