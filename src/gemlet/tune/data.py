"""Training data: files read and checked, made into token ids, and dealt to training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemlet.errors import DataError, InvalidRequestError
from gemlet.text.tokenizer import Tokenizer
from gemlet.text.tools import Tool
from gemlet.tune.data_report import DataReport, Found, copies, split_report
from gemlet.tune.encoding import Encoder, Item, Template, examples_of, fitted, longest
from gemlet.tune.examples import Example, Pair
from gemlet.tune.lines import Lines, Problems, Refused, parse_line
from gemlet.tune.secret_patterns import kinds_of
from gemlet.tune.shapes import (
    ANSWERING,
    Chat,
    Content,
    Continuation,
    Method,
    Preference,
    Shape,
    content_texts,
    group_of,
    message_text,
    read_content,
    shape_of,
)
from gemlet.tune.split import SPLITS, Likeness, deal, likeness

__all__ = ["Dataset", "Example", "Pair", "Prompt", "read_dataset"]

MESSAGE_SHAPES = {"messages", "ShareGPT", "Alpaca"}

MISNAMED = {"validation": "valid", "val": "valid", "dev": "valid", "eval": "valid", "testing": "test"}


@dataclass(frozen=True)
class Prompt:
    """What is generated from to score a model, and the answer that the data gives.

    One of messages and text is given. tools: as the line declares them. source: file and line.
    """

    messages: Sequence[Mapping[str, Any]] | None
    text: str | None
    tools: tuple[Tool, ...]
    answer: str
    source: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data to train on. sha256: of the one file; of a folder, of `sha256sum`'s lines for its files.

    prompts: of the test split, or of valid without one.
    """

    train: tuple[Item, ...]
    valid: tuple[Item, ...]
    test: tuple[Item, ...]
    sha256: str
    report: DataReport
    prompts: tuple[Prompt, ...]

    @property
    def has_messages(self) -> bool:
        """Whether it teaches a chat format."""
        return any(shape in MESSAGE_SHAPES for shape in self.report.shapes.values())


def read_dataset(
    path: str | Path,
    tokenizer: Tokenizer,
    *,
    template: Template,
    end_id: int,
    method: Method = "sft",
    length: int,
    cut: bool = False,
    group_key: str | None = None,
    seed: int = 0,
    valid_share: float = 0.05,
    test_share: float = 0.05,
) -> Dataset:
    """Read a folder with train.jsonl, and valid.jsonl and test.jsonl if given, or one file, then split.

    template: how the model reads messages. end_id: the token that ends raw text, one of the model's stop ids.
    length: of an example, in tokens; longer ones are cut if asked, else refused. group_key: a field whose
    value is never on two sides of a split. Shares are of the lines of one file.

    Raises DataError naming file, line, field and reason of up to 20 lines, InvalidRequestError for arguments.
    """
    if length < 2:
        raise InvalidRequestError(f"the length must be at least 2 tokens, not {length}")
    if min(valid_share, test_share) < 0 or not valid_share + test_share < 1:
        raise InvalidRequestError("the shares of valid and test must be at least 0 and together below 1")
    path = Path(path).expanduser()
    reading = _Reading(Encoder(tokenizer, template, end_id), method, group_key)
    if path.is_dir():
        notes = _read_folder(path, reading)
    else:
        if path.suffix != ".jsonl":
            problem = f"{path}: is neither a folder with train.jsonl nor a .jsonl file"
            raise DataError([problem], hint="one JSON object a line: https://jsonlines.org")
        notes = []
        reading.read(path, "train")
    reading.problems.raise_any()
    if path.is_dir():
        listing = "".join(f"{digest}  {name}\n" for name, digest in reading.files.items())
        sha256 = hashlib.sha256(listing.encode()).hexdigest()
    else:
        (sha256,) = reading.files.values()
        dealt = deal(
            [entry.likeness for entry in reading.entries],
            seed=seed,
            valid_share=valid_share,
            test_share=test_share,
        )
        for entry, split in zip(reading.entries, dealt, strict=True):
            entry.split = split
        shares = {"valid": valid_share, "test": test_share}
        notes += [
            f"nothing is held out for {split}: the other lines are too alike, or of the same groups"
            for split, share in shares.items()
            if share > 0 and split not in dealt
        ]
    return _finish(reading, _Fitting(length, cut), sha256, notes)


@dataclass
class _Entry:
    """A line that was read."""

    item: Item
    content: Content
    likeness: Likeness
    source: str
    split: str


class _Reading:
    """Files as they are read, line by line; bad lines are gathered."""

    def __init__(self, encoder: Encoder, method: Method, group_key: str | None) -> None:
        self.encoder, self.method, self.group_key = encoder, method, group_key
        self.problems = Problems()
        self.entries: list[_Entry] = []
        self.files: dict[str, str] = {}
        self.shapes: dict[str, str] = {}
        self.changed: dict[str, list[str]] = {}
        self.secrets: dict[str, list[str]] = {}

    def read(self, path: Path, split: str) -> None:
        """Every line of a file. Raises DataError where there is none."""
        lines, shape = Lines(path), None
        before = len(self.entries) + self.problems.count
        for number, line in lines:
            source = f"{path.name}:{number}"
            try:
                value = parse_line(line)
                own = shape_of(value, self.method)
                if shape is not None and own is not shape:
                    reason = f"has the shape {own.name}, but the lines before it {shape.name}: a file has one"
                    raise Refused("line", reason)
                self.entries.append(self._entry(value, own, source, split))
                shape = own
            except Refused as refused:
                self.problems.add(source, refused)
        if len(self.entries) + self.problems.count == before:
            raise DataError([f"{path}: holds no lines"])
        self.files[path.name] = lines.sha256
        if shape is not None:
            self.shapes[path.name] = shape.name

    def _entry(self, value: Mapping[str, Any], shape: Shape, source: str, split: str) -> _Entry:
        content = read_content(value, shape, self.group_key)
        group = group_of(value, self.group_key)
        item, changes = self.encoder.encode(content, source)
        texts = content_texts(content)
        self.encoder.check_texts(texts)
        for change in dict.fromkeys(line.partition(": ")[2] or line for line in changes):
            self.changed.setdefault(change, []).append(source)
        for kind in {kind for text in texts for kind in kinds_of(text)}:
            self.secrets.setdefault(kind, []).append(source)
        return _Entry(item, content, likeness(texts, group), source, split)


@dataclass
class _Fitting:
    """Items brought to a length, and what that cost."""

    length: int
    cut: bool
    shortened: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    left_out: int = 0

    def fit(self, entries: Sequence[_Entry]) -> list[_Entry]:
        long = [entry for entry in entries if longest(entry.item) > self.length]
        if long and not self.cut:
            worst = max(long, key=lambda entry: longest(entry.item))
            problem = (
                f"{len(long)} of {len(entries)} examples are longer than {self.length} tokens; "
                f"the longest, {worst.source}, has {longest(worst.item)}"
            )
            raise DataError([problem], hint="allow a greater length, ask to have them cut, or shorten them")
        kept = []
        for entry in entries:
            item = fitted(entry.item, self.length)
            before, after = _tokens(entry.item), 0 if item is None else _tokens(item)
            if item is None:
                self.dropped.append(entry.source)
                continue
            if after < before:
                self.shortened.append(entry.source)
                self.left_out += before - after
                entry.item = item
            kept.append(entry)
        return kept


def _tokens(item: Item) -> int:
    return sum(len(example.ids) for example in examples_of(item))


def _read_folder(folder: Path, reading: _Reading) -> list[str]:
    """Read what is there of the splits; what a person should know of the folder."""
    if not (folder / "train.jsonl").is_file():
        raise DataError([f"{folder}: has no train.jsonl"])
    others = sorted(p.name for p in folder.glob("*.jsonl") if p.stem not in SPLITS)
    for name in others:
        if (meant := MISNAMED.get(Path(name).stem.lower())) is not None:
            raise DataError([f"{folder / name}: is not read; did you mean {meant}.jsonl?"])
    notes = [f"not read: {name}" for name in others]
    for split in SPLITS:
        if (folder / f"{split}.jsonl").exists():
            reading.read(folder / f"{split}.jsonl", split)
    if "valid.jsonl" not in reading.files:
        notes.append("there is no valid.jsonl: nothing will show when the model learns by heart")
    return notes


def _finish(reading: _Reading, fitting: _Fitting, sha256: str, notes: Sequence[str]) -> Dataset:
    entries = fitting.fit(reading.entries)
    splits = {split: [entry for entry in entries if entry.split == split] for split in SPLITS}
    if not splits["train"]:
        raise DataError([f"nothing is left to train on within {fitting.length} tokens"])
    compared = {split: [(e.source, e.likeness) for e in some] for split, some in splits.items()}
    inside, same, near, grouped = copies(compared)
    report = DataReport(
        files=reading.files,
        shapes=reading.shapes,
        splits={name: split_report([entry.item for entry in some]) for name, some in splits.items() if some},
        duplicates=inside,
        duplicates_across=same,
        near_copies_across=near,
        groups_across=grouped,
        length=fitting.length,
        cut=Found.of(fitting.shortened),
        tokens_left_out=fitting.left_out,
        dropped=Found.of(fitting.dropped),
        changed={change: Found.of(sources) for change, sources in reading.changed.items()},
        secrets={kind: Found.of(sources) for kind, sources in sorted(reading.secrets.items())},
        notes=tuple(notes),
    )
    scored = splits["test"] or splits["valid"]
    prompts = [_prompt(entry.content, entry.source) for entry in scored]
    train, valid, test = (tuple(entry.item for entry in splits[split]) for split in SPLITS)
    return Dataset(train, valid, test, sha256, report, tuple(p for p in prompts if p is not None))


def _prompt(content: Content, source: str) -> Prompt | None:
    """What is asked last in a line, and its answer; None where it asks nothing."""
    if isinstance(content, Preference):
        content = content.chosen
    if isinstance(content, Continuation):
        return Prompt(None, content.prompt, (), content.completion, source)
    if not isinstance(content, Chat):
        return None
    last = max(i for i, message in enumerate(content.messages) if message.get("role") in ANSWERING)
    answer = message_text(content.messages[last])
    return Prompt(content.messages[:last], None, content.tools, answer, source) if last and answer else None
