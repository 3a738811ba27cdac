"""Training data: every shape, what is learned of it, how it is split, what is refused and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlet.errors import DataError
from gemlet.model.weights import load
from gemlet.store.load import open_chat_template, open_tokenizer
from gemlet.text.template import Rendered, render
from gemlet.text.tokenizer import Tokenizer
from gemlet.tune.data import Dataset, read_dataset
from gemlet.tune.examples import Example, Pair
from gemlet.tune.split import SPLITS, deal, likeness
from tests.llama_models import save_gguf, tiny_model
from tests.parity.real import Real

EOS = 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Real(tmp_path_factory.mktemp("cache")).tokenizer


Read = Callable[..., Dataset]


@pytest.fixture
def read(tokenizer: Tokenizer, tmp_path: Path) -> Read:
    """Lines as one file, or files by name, through `read_dataset`."""

    def template(messages: Sequence[Mapping[str, Any]], tools: Any) -> Rendered:
        return render(messages, tokenizer, tools=tools, add_generation_prompt=False)

    def read(data: Any, **options: Any) -> Dataset:
        if isinstance(data, Path):
            path = data
        elif isinstance(data, Mapping):
            path = tmp_path
            for name, lines in data.items():
                _write(tmp_path / name, lines)
        else:
            path = tmp_path / "data.jsonl"
            _write(path, data)
        options = {
            "length": 200,
            "template": template,
            "end_id": EOS,
            "valid_share": 0,
            "test_share": 0,
        } | options
        return read_dataset(path, tokenizer, **options)

    return read


def _write(path: Path, lines: Any) -> None:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(text + b"\n" for text in texts))


def learned(tokenizer: Tokenizer, example: Example) -> list[str]:
    """What is learned: a text for each run."""
    runs: list[list[int]] = []
    for at, flag in enumerate(example.learned):
        if flag and not example.learned[at - 1]:
            runs.append([])
        if flag:
            runs[-1].append(int(example.ids[at]))
    return [tokenizer.shown(run) for run in runs]


def only(dataset: Dataset) -> Example:
    (item,) = dataset.train
    assert isinstance(item, Example)
    assert item.ids.dtype == np.int32 and item.ids[0] == 2 and list(item.ids).count(2) == 1
    assert not item.learned[0]
    return item


def asked(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return turns + [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


SHAPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "messages": (
        {"messages": asked("Hi", "Hello.", "And you?", "Fine.", system="Be brief.")},
        ["Hello.<end_of_turn>", "Fine.<end_of_turn>"],
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
        ["Hello.<end_of_turn>"],
    ),
    "Alpaca": (
        {"instruction": "Translate.", "input": "Katze", "output": "cat"},
        ["cat<end_of_turn>"],
    ),
    "prompt/completion": ({"prompt": "2 + 2 = ", "completion": "4"}, [" 4<eos>"]),
    "text": ({"text": "All of it."}, ["All of it.<eos>"]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_only_answers_are_learned_and_the_token_that_ends_them(
    shape: str, read: Read, tokenizer: Tokenizer
) -> None:
    line, expected = SHAPES[shape]
    dataset = read([line])
    assert learned(tokenizer, only(dataset)) == expected
    assert dataset.report.shapes == {"data.jsonl": shape}


def test_a_chat_is_read_as_the_engine_reads_it(read: Read, tokenizer: Tokenizer) -> None:
    messages = asked("Hi", "Hello.", "More", "Yes.", system="Be brief.")
    example = only(read([{"messages": messages}]))
    prompt = render(messages[:-1], tokenizer).ids
    assert tuple(example.ids[: len(prompt)]) == prompt
    assert example.learned[len(prompt)] and not example.learned[len(prompt) - 1]


def test_preferences_are_pairs_of_the_same_prompt(read: Read, tokenizer: Tokenizer) -> None:
    line = {"prompt": asked("Hi"), "chosen": asked("", "Hello.")[1:], "rejected": asked("", "Go.")[1:]}
    (pair,) = read([line], method="dpo").train
    assert isinstance(pair, Pair)
    assert learned(tokenizer, pair.chosen) == ["Hello.<end_of_turn>"]
    assert learned(tokenizer, pair.rejected) == ["Go.<end_of_turn>"]
    start = int(pair.chosen.learned.argmax())
    assert np.array_equal(pair.chosen.ids[:start], pair.rejected.ids[:start])


def test_templates_in_jinja_mark_the_models_turns(tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.gguf", tiny_model("qwen2"), "qwen2")
    loaded = load(tmp_path / "model.gguf", cache_dir=None)
    tokenizer = open_tokenizer(loaded)
    template = open_chat_template(loaded, tokenizer)
    assert template is not None
    _write(tmp_path / "data.jsonl", [{"messages": asked("Hi", "Hello.", "More", "Yes.")}])
    dataset = read_dataset(
        tmp_path / "data.jsonl",
        tokenizer,
        template=lambda messages, tools: template.render_learned(messages, tools=tools),
        end_id=2,
        length=200,
        valid_share=0,
        test_share=0,
    )
    (example,) = dataset.train
    assert isinstance(example, Example)
    assert learned(tokenizer, example) == ["Hello.<|im_end|>", "Yes.<|im_end|>"]


BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b'{"text": ', "line"),
    "no object": (b'["text"]', "line"),
    "not UTF-8": (b'{"text": "\xff"}', "utf-8"),
    "a key twice": (b'{"text": "a", "text": "b"}', "text"),
    "no number": (b'{"text": NaN}', "NaN"),
    "no known shape": (b'{"sentence": "a"}', "none of the known shapes"),
    "another shape": (b'{"prompt": "a", "completion": "b"}', "a file has one"),
    "an unknown field": (b'{"text": "a", "weight": 2}', "weight"),
    "a wrong type": (b'{"text": 7}', "text"),
    "nothing to learn": (b'{"text": ""}', "text"),
    "a marker": (b'{"text": "a <end_of_turn> b"}', "control token"),
    "half a pair": (b'{"text": "a \\ud800"}', "text"),
    "a test set": (b'{"text": "canary GUID 26b5c67b-86a9"}', "BIG-bench"),
    "too deep": (b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}", "line"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_named_by_number_and_reason(kind: str, read: Read) -> None:
    line, reason = BAD[kind]
    with pytest.raises(DataError, match=r"data\.jsonl:3: .*") as caught:
        read([{"text": "good"}, b"", line, {"text": "good too"}])
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (asked("Hi"), "turn"),
        ([{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}], "role"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}], "empty"),
        ([{"role": "user", "content": "x"}, {"role": "assistant"}], "empty"),
        ([], "messages"),
        ("Hi", "messages"),
    ],
)
def test_a_bad_conversation_is_refused(messages: Any, reason: str, read: Read) -> None:
    with pytest.raises(DataError, match=r"data\.jsonl:1: .*") as caught:
        read([{"messages": messages}])
    assert reason in str(caught.value)


def test_bad_lines_are_gathered_and_counted(read: Read) -> None:
    with pytest.raises(DataError) as caught:
        read([{"text": 1}] * 50)
    assert caught.value.count == 50 and len(caught.value.problems) == 20


def test_long_examples_are_refused_or_cut_with_a_count(read: Read, tokenizer: Tokenizer) -> None:
    lines = [{"text": "word " * n} for n in (3, 50, 80)]
    with pytest.raises(DataError, match=r"2 of 3 examples are longer than 20 tokens; .*data\.jsonl:3"):
        read(lines, length=20)
    dataset = read([*lines, {"prompt": "x", "completion": "y"}][:3], length=20, cut=True)
    assert [len(item.ids) for item in dataset.train if isinstance(item, Example)][1:] == [20, 20]
    assert dataset.report.cut.count == 2 and dataset.report.tokens_left_out > 80
    # A prompt that fills the length leaves nothing to learn: the line is left out, and counted.
    long = {"prompt": "word " * 50, "completion": "y"}
    dataset = read([{"prompt": "a", "completion": " b"}, long], length=20, cut=True)
    assert len(dataset.train) == 1 and dataset.report.dropped.count == 1


def test_copies_stay_on_one_side_and_groups_too(read: Read) -> None:
    lines = []
    for n in range(60):
        word = "".join(chr(97 + int(digit)) for digit in f"{n:03d}")
        lines += [{"text": f"The {word} is {k}.", "town": f"{n % 20}"} for k in (1, 2)]
    dataset = read(lines, valid_share=0.2, test_share=0.2, group_key="town", seed=3)
    sides: dict[str, set[str]] = {}
    for split in SPLITS:
        for item in getattr(dataset, split):
            number = int(item.source.rpartition(":")[2]) - 1
            sides.setdefault(lines[number]["town"], set()).add(split)
    assert all(len(found) == 1 for found in sides.values())
    assert {side for found in sides.values() for side in found} == set(SPLITS)
    again = read(lines, valid_share=0.2, test_share=0.2, group_key="town", seed=3)
    assert [x.source for x in again.test] == [x.source for x in dataset.test]
    other = read(lines, valid_share=0.2, test_share=0.2, group_key="town", seed=4)
    assert [x.source for x in other.test] != [x.source for x in dataset.test]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([None, "x", "y", "z"])), min_size=1),
    st.integers(0, 99),
)
def test_what_belongs_together_is_never_on_two_sides(lines: list[tuple[str, str | None]], seed: int) -> None:
    marks = [likeness([text], group) for text, group in lines]
    dealt = deal(marks, seed=seed, valid_share=0.2, test_share=0.2)
    assert "train" in dealt
    for i, one in enumerate(marks):
        for j, other in enumerate(marks):
            if one.folded == other.folded or (one.group is not None and one.group == other.group):
                assert dealt[i] == dealt[j]


def test_lines_that_are_all_alike_cannot_be_held_out(read: Read) -> None:
    report = read([{"text": f"Room {n}"} for n in range(20)], valid_share=0.1, test_share=0.1).report
    assert set(report.splits) == {"train"}
    assert sum("nothing is held out" in line for line in report.warnings()) == 2


def test_leaks_between_given_files_are_found(read: Read) -> None:
    files = {
        "train.jsonl": [{"text": "One bridge."}, {"text": "Two soups."}, {"text": "Two soups."}],
        "valid.jsonl": [{"text": "one  BRIDGE."}],
        "test.jsonl": [{"text": "Two soups."}, {"text": "A lamp."}],
    }
    report = read(files).report
    assert report.duplicates["train"].count == 1
    assert report.duplicates_across.count == 1 and report.near_copies_across.count == 1
    assert any("leak" in line and "test.jsonl:1" in line for line in report.warnings())


def test_secrets_are_told_by_kind_and_line_only(read: Read) -> None:
    key = "AKIA" + "QWERTYUIOPASDFGH"
    card = "4111 1111 1111 1111"
    lines = [
        {"text": f"The key is {key}."},
        {"text": f"Pay with {card}."},
        {"text": "write to a@example.com"},
    ]
    report = read(lines).report
    told = "\n".join(report.lines())
    assert "data.jsonl:1" in told and "data.jsonl:2" in told and "AWS key" in told
    assert key not in told and card not in told and "data.jsonl:3" not in "".join(report.warnings())


def test_folders_files_and_shares_that_are_not_right(read: Read, tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.jsonl", "cannot be read"), (tmp_path, "train.jsonl")):
        with pytest.raises(DataError, match=reason):
            read(path)
    with pytest.raises(DataError, match=r"did you mean valid\.jsonl"):
        read({"train.jsonl": [{"text": "a"}], "validation.jsonl": [{"text": "b"}]})
    with pytest.raises(DataError, match="holds no lines"):
        read([b"", b"  "])


def test_prompts_for_scoring_come_from_the_test_split(read: Read) -> None:
    files = {
        "train.jsonl": [{"messages": asked("a", "b")}],
        "test.jsonl": [{"messages": asked("Hi", "Hello.", "More", "Yes.")}],
    }
    (prompt,) = read(files).prompts
    assert prompt.messages == asked("Hi", "Hello.", "More") and prompt.answer == "Yes."


def test_what_a_file_calls_its_fields_cannot_reach_the_terminal(read: Read) -> None:
    with pytest.raises(DataError) as caught:
        read([{"text": "a", "\x1b[31m": 1}, {"text": "a", "\ud800": 1}])
    assert caught.value.message.encode() and "\x1b" not in caught.value.message
    assert "\\x1b[31m: is unknown" in caught.value.problems[0] and "\\ud800: is" in caught.value.problems[1]
