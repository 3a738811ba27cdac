"""What training data holds: lengths, copies, leaks between splits, secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gemlet.statistics.quantiles import nearest_rank
from gemlet.tune.encoding import Item, examples_of, longest
from gemlet.tune.split import SPLITS, Likeness

SHOWN = 20
"""Places that are listed; all are counted."""
_LONGEST = 5
_QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Found:
    """Lines of one kind: how many, and the first of them as "train.jsonl:17", never their text."""

    count: int
    lines: tuple[str, ...]

    @classmethod
    def of(cls, lines: Iterable[str]) -> Found:
        every = list(lines)
        return cls(len(every), tuple(every[:SHOWN]))

    def __str__(self) -> str:
        more = ", …" if self.count > 5 else ""
        return f"{self.count} ({', '.join(self.lines[:5])}{more})"


@dataclass(frozen=True)
class SplitReport:
    """Of one split. `learned`: tokens that are predicted. Lengths are in tokens, of a preference the longer
    side's. quantiles: by name, "0.5" and so on. histogram: how many are at most so long and longer than the
    bound before. longest: lines and their lengths."""

    examples: int
    tokens: int
    learned: int
    quantiles: dict[str, int]
    histogram: dict[int, int]
    longest: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class DataReport:
    """files: sha256 by name. shapes: by file. duplicates: lines whose text was in their split before.
    duplicates_across, near_copies_across, groups_across: lines of valid and test whose text, text but for
    case, space and digits, or group is in an earlier split. cut: examples cut, and the tokens that this left
    out; dropped: those that cutting left nothing to learn of. changed: lines that the template changed, by
    change.
    """

    files: dict[str, str]
    shapes: dict[str, str]
    splits: dict[str, SplitReport]
    duplicates: dict[str, Found]
    duplicates_across: Found
    near_copies_across: Found
    groups_across: Found
    length: int
    cut: Found
    tokens_left_out: int
    dropped: Found
    changed: dict[str, Found]
    secrets: dict[str, Found]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        value = asdict(self)
        for split in value["splits"].values():
            split["histogram"] = {str(bound): count for bound, count in split["histogram"].items()}
        return value

    def warnings(self) -> list[str]:
        """What a person should look at before training, a line each."""
        lines = []
        if self.duplicates_across.count:
            lines.append(f"leak: lines that are in an earlier split too: {self.duplicates_across}")
        if self.near_copies_across.count:
            lines.append(
                "leak: lines that differ from one in an earlier split in case, space or digits only: "
                f"{self.near_copies_across}"
            )
        if self.groups_across.count:
            lines.append(f"leak: lines whose group is in an earlier split: {self.groups_across}")
        lines += [f"{split}: copies of earlier lines: {found}" for split, found in self.duplicates.items()]
        lines += [f"may hold a secret ({kind}): {found}" for kind, found in self.secrets.items()]
        lines += [f"changed by the chat format ({change}): {found}" for change, found in self.changed.items()]
        if self.cut.count:
            lines.append(
                f"cut at {self.length} tokens: {self.cut}, which left out {self.tokens_left_out} tokens"
            )
        if self.dropped.count:
            lines.append(f"left out, with nothing to learn within {self.length} tokens: {self.dropped}")
        return [*lines, *self.notes]

    def lines(self) -> list[str]:
        """The report as plain lines for a terminal."""
        result = [f"{file}: {shape}" for file, shape in self.shapes.items()]
        result.append(f"{'':6} {'examples':>9} {'tokens':>11} {'learned':>11}   median   90 %   99 %    max")
        for name, split in self.splits.items():
            lengths = " ".join(f"{value:6}" for value in split.quantiles.values())
            result.append(f"{name:6} {split.examples:9,} {split.tokens:11,} {split.learned:11,}   {lengths}")
        if (train := self.splits.get("train")) is not None:
            result += _bars(train.histogram)
            shown = ", ".join(f"{source} ({tokens})" for source, tokens in train.longest)
            result.append(f"longest: {shown}")
        return [*result, *(f"warning: {line}" for line in self.warnings())]


def split_report(items: Sequence[Item]) -> SplitReport:
    """Of one split's items, at least one."""
    lengths = [longest(item) for item in items]
    every = [example for item in items for example in examples_of(item)]
    histogram: dict[int, int] = {}
    for length in sorted(lengths):
        bound = 1 << (length - 1).bit_length()
        histogram[bound] = histogram.get(bound, 0) + 1
    order = sorted(range(len(items)), key=lambda i: (-lengths[i], i))[:_LONGEST]
    return SplitReport(
        examples=len(items),
        tokens=sum(len(example.ids) for example in every),
        learned=sum(int(example.learned.sum()) for example in every),
        quantiles={str(share): int(nearest_rank(lengths, share)) for share in _QUANTILES},
        histogram=histogram,
        longest=tuple((examples_of(items[i])[0].source, lengths[i]) for i in order),
    )


def copies(
    splits: Mapping[str, Sequence[tuple[str, Likeness]]],
) -> tuple[dict[str, Found], Found, Found, Found]:
    """Of lines, each with its source: copies inside each split; then across splits the same lines, near
    copies that are not the same, and lines of the same group that are neither."""
    inside = {}
    across: tuple[list[str], list[str], list[str]] = ([], [], [])
    earlier: tuple[set[Any], set[Any], set[Any]] = (set(), set(), set())
    for split in SPLITS:
        lines = splits.get(split, ())
        found = Found.of(_repeated(lines))
        if found.count:
            inside[split] = found
        for source, line in lines:
            keys = (line.exact, line.folded, line.group)
            for kind, key in enumerate(keys):
                if key is not None and key in earlier[kind]:
                    across[kind].append(source)
                    break
        for _, line in lines:
            for kind, key in enumerate((line.exact, line.folded, line.group)):
                earlier[kind].add(key)
    same, near, grouped = map(Found.of, across)
    return inside, same, near, grouped


def _repeated(lines: Iterable[tuple[str, Likeness]]) -> Iterator[str]:
    seen = set()
    for source, line in lines:
        if line.exact in seen:
            yield source
        seen.add(line.exact)


def _bars(histogram: Mapping[int, int]) -> list[str]:
    largest = max(histogram.values())
    lines = []
    for bound, count in histogram.items():
        bar = "█" * max(1, 40 * count // largest)
        lines.append(f"{bound // 2 + 1:>7} to {bound:<7} {bar} {count:,}")
    return lines
