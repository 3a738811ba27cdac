"""Small general chat data, which teach a base model to answer in the chat format.

    python -m benchmarks.tune.chat -o .cache/tune/chat

All of it was written for this project (conversations.txt) or is made from its lists (chat_facts.json,
chat_words.json), under its licence, Apache-2.0. Writes train, valid and test.jsonl for `gemlet tune`. The
prompts that are scored, chat_held_out.jsonl, are held against it: none of their last questions may be in it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.tune.chat_made import Conversation, conversation, facts, made
from benchmarks.tune.data_files import read_lines, scored_path, write_data, write_lines

WRITTEN = Path(__file__).with_name("conversations.txt")
HELD_OUT = Path(__file__).with_name("chat_held_out.jsonl")

_ROLES = {"S": "system", "U": "user", "A": "assistant"}


def written(text: str) -> list[Conversation]:
    """Conversations between lines of ====, a turn at each "S: ", "U: " or "A: "."""
    return [
        _turns(part.strip("\n")) for part in re.split(r"^====$", text, flags=re.MULTILINE) if part.strip()
    ]


def _turns(part: str) -> Conversation:
    pieces = re.split(r"^([SUA]): ", part, flags=re.MULTILINE)
    if pieces[0] or len(pieces) < 5:
        raise ValueError(f"not a conversation: {part[:60]!r}")
    return [
        {"role": _ROLES[mark], "content": text.strip("\n")}
        for mark, text in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def chained(conversations: list[Conversation], count: int, random: Random) -> Iterator[Conversation]:
    """Two or three short conversations in a row, as when a person changes the subject."""
    short = [one for one in conversations if len(one) == 2]
    for _ in range(count):
        yield [turn for one in random.sample(short, random.randint(2, 3)) for turn in one]


def without(conversations: Iterable[Conversation], asked: set[str]) -> list[Conversation]:
    """The conversations, each once, in which no question of `asked` comes up."""
    kept = {}
    for one in conversations:
        if not any(turn["role"] == "user" and plain(turn["content"]) in asked for turn in one):
            kept[json.dumps(one)] = one
    return list(kept.values())


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def held_out() -> list[dict[str, Any]]:
    """The prompts that are scored, with `messages` that end in the user's last one, and their checks."""
    rows = []
    for row in read_lines(HELD_OUT):
        turns = [turn for pair in zip(row["user"], row.get("model", []), strict=False) for turn in pair]
        turns.append(row["user"][-1])
        rows.append({**row, "messages": conversation(*turns, system=row.get("system"))})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path(".cache/tune/chat"), help="the folder to write"
    )
    parser.add_argument("--chained", type=int, default=250, help="conversations of two or three subjects")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random = Random(args.seed)
    rows = held_out()
    asked = {plain(row["messages"][-1]["content"]) for row in rows}
    parts = {
        "written": written(WRITTEN.read_text(encoding="utf-8")),
        "facts": facts(),
        "made": made(random),
    }
    parts["chained"] = list(chained(list(chain.from_iterable(parts.values())), args.chained, random))
    kept = {name: without(conversations, asked) for name, conversations in parts.items()}
    every = without([one for conversations in kept.values() for one in conversations], asked)
    random.shuffle(every)
    share = iter({"messages": one} for one in every)
    lines = {
        name: list(islice(share, count)) for name, count in (("valid", 100), ("test", 60), ("train", None))
    }
    write_data(args.out, lines)
    write_lines(scored_path(args.out), rows)
    for name, conversations in kept.items():
        print(f"{name}: {len(conversations)} conversations, {len(parts[name]) - len(conversations)} left out")
    print(", ".join(f"{name}: {len(some)}" for name, some in lines.items()), f", scored: {len(rows)}")


if __name__ == "__main__":
    main()
