"""What holds of the answers to each demonstration's questions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.tune.answers import Answer
from benchmarks.tune.lint_check import findings, parses, passes, same_code

Row = Mapping[str, Any]
Verdict = Mapping[str, bool]
"""By the measure's name."""

_FENCE = re.compile(r"```\w*\n(.*?)(?:```|\Z)", re.DOTALL)


def judge_intents(rows: Sequence[Row], answers: Sequence[Answer]) -> list[Verdict]:
    return [judge_intent(row, answer.text) for row, answer in zip(rows, answers, strict=True)]


def judge_intent(row: Row, answer: str) -> Verdict:
    """Exact: the same intent and slots. JSON: an object with an intent and slots at all."""
    known = json.loads(row["messages"][-1]["content"])
    try:
        said = json.loads(answer)
    except ValueError:
        said = None
    shaped = isinstance(said, dict) and set(said) == {"intent", "slots"}
    return {"exact": said == known, "intent": shaped and said["intent"] == known["intent"], "JSON": shaped}


def intent_groups(row: Row) -> list[str]:
    shape = "new shape" if row["new_shape"] else "near-copy"
    return [shape, "new values" if row["new_values"] else "seen values"]


def without_fence(answer: str) -> str:
    """The code of an answer: what its first fence holds, if it has one."""
    found = _FENCE.search(answer)
    return (found.group(1) if found else answer).strip("\n")


def judge_fixes(rows: Sequence[Row], answers: Sequence[Answer]) -> list[Verdict]:
    """`ruff passes` can be had by deleting code; `fixed` asks besides for the code of the known fix."""
    verdicts: dict[int, Verdict] = {}
    for suffix in sorted({row["suffix"] for row in rows}):
        places = [i for i, row in enumerate(rows) if row["suffix"] == suffix]
        texts = [without_fence(answers[i].text) for i in places]
        before = findings([rows[i]["bad"] for i in places], suffix=suffix)
        after = findings(texts, suffix=suffix)
        for i, text, old, new in zip(places, texts, before, after, strict=True):
            clean = parses(text) and passes(rows[i]["code"], old, new)
            same = same_code(text, rows[i]["messages"][-1]["content"])
            verdicts[i] = {
                "fixed": clean and same,
                "ruff passes": clean,
                "as the known fix": same,
                "parses": parses(text),
                "unchanged": text.strip() == rows[i]["bad"].strip(),
            }
    return [verdicts[i] for i in range(len(rows))]


def fix_groups(row: Row) -> list[str]:
    return ["ruff can fix" if row["fixable"] else "ruff cannot fix"]


def judge_chats(rows: Sequence[Row], answers: Sequence[Answer]) -> list[Verdict]:
    """`content`: says what it must. `right`: also no longer than asked, and ended by the model itself."""
    verdicts = []
    for row, answer in zip(rows, answers, strict=True):
        content = says(row, answer.text)
        short = len(answer.text.split()) <= row.get("max_words", 150)
        verdicts.append(
            {"right": content and short and answer.stopped, "content": content, "stops": answer.stopped}
        )
    return verdicts


def says(row: Row, text: str) -> bool:
    """Whether an answer meets a prompt's checks.

    `any`: one of these stands in it, as the beginning of a word; `none`: none of these; `at_least`: how many
    `of` these; `regex`: is found.
    """
    return (
        ("any" not in row or any(_mentions(text, one) for one in row["any"]))
        and not any(_mentions(text, one) for one in row.get("none", ()))
        and sum(_mentions(text, one) for one in row.get("of", ())) >= row.get("at_least", 0)
        and ("regex" not in row or re.search(row["regex"], text) is not None)
    )


def _mentions(text: str, what: str) -> bool:
    return re.search(r"(?<!\w)" + re.escape(what), text, re.IGNORECASE) is not None


def chat_groups(row: Row) -> list[str]:
    return [row["category"]]
