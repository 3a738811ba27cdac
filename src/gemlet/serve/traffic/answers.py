"""What answers of all the APIs have in common, and how two answers to one request differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from gemlet.serve.traffic.streams import AnswerError

Kind = Literal["status", "refusal", "choices", "text", "tool_calls", "finish_reason"]

CHARACTERS_COMPARED = 1 << 18
"""Of each text, for how alike they are."""

WORDS_COMPARED = 1000
"""Words of each text between the beginning and the end that both share; the time grows with their square."""

BEFORE, AFTER = 24, 64
"""Characters shown before and after the first difference."""


@dataclass(frozen=True)
class Call:
    """A call of a tool. `arguments`: as it is, but JSON is written anew, so that spaces do not count."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Choice:
    """One of the answers to a request."""

    text: str
    finish_reason: str | None
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why there is no answer, in the API's words. `param`: the parameter that is at fault."""

    message: str
    code: str | None = None
    param: str | None = None

    def __str__(self) -> str:
        return ": ".join(part for part in (self.code, self.param) if part) or self.message


@dataclass(frozen=True)
class Answer:
    """What was answered. Token counts are None where they were not told."""

    status: int
    choices: tuple[Choice, ...] = ()
    refusal: Refusal | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Difference:
    """How two answers differ. `kinds` is empty for equal ones; `similarity` of the texts, 0 to 1.

    `first`: the first place where texts, calls or reasons part, once as recorded and once as replayed.
    """

    kinds: tuple[Kind, ...]
    similarity: float | None
    first: tuple[str, str] | None = None


def read_answer(status: int, body: dict[str, Any]) -> Answer:
    """A body, of any of the APIs. Raises AnswerError."""
    if body.get("error") is not None:
        return Answer(status, refusal=_refusal(body["error"]), model=_optional_text(body.get("model")))
    if isinstance(body.get("choices"), list):
        choices = [_choice(one) for one in body["choices"]]
    elif isinstance(body.get("output"), list):
        choices = [_response(body)]
    elif "message" in body or "response" in body:
        message = body.get("message", {"content": body.get("response")})
        choices = [_choice({"message": message, "finish_reason": body.get("done_reason")})]
    elif status >= 400:
        return Answer(status, refusal=Refusal(f"status {status}"))
    else:
        raise AnswerError("is an object without choices, output or message")
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else body
    return Answer(
        status,
        tuple(choices),
        None,
        _optional_text(body.get("model")),
        _count(usage, ("prompt_tokens", "input_tokens", "prompt_eval_count")),
        _count(usage, ("completion_tokens", "output_tokens", "eval_count")),
    )


def _refusal(error: Any) -> Refusal:
    if not isinstance(error, dict):
        return Refusal(str(error)[:1000])
    code = error.get("code") or error.get("type")
    return Refusal(
        str(error.get("message"))[:1000],
        None if code is None else str(code)[:100],
        None if error.get("param") is None else str(error["param"])[:100],
    )


def _choice(choice: Any) -> Choice:
    if not isinstance(choice, dict):
        raise AnswerError("has a choice that is not an object")
    message = choice.get("message", {"content": choice.get("text")})
    if not isinstance(message, dict):
        raise AnswerError("has a message that is not an object")
    text = _optional_text(message.get("content")) or _optional_text(message.get("refusal")) or ""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise AnswerError("has tool_calls that are not a list")
    functions = [call.get("function") if isinstance(call, dict) else None for call in calls]
    return Choice(text, _optional_text(choice.get("finish_reason")), tuple(map(_call, functions)))


def _response(body: dict[str, Any]) -> Choice:
    texts: list[str] = []
    calls: list[Call] = []
    for item in body["output"]:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "function_call":
            calls.append(_call(item))
        elif kind == "message":
            content = item.get("content")
            for part in content if isinstance(content, list) else ():
                if not isinstance(part, dict):
                    raise AnswerError("has a part of a message that is not an object")
                texts.append(_optional_text(part.get("text")) or _optional_text(part.get("refusal")) or "")
    details = body.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else body.get("status")
    return Choice("".join(texts), _optional_text(reason), tuple(calls))


def _call(function: Any) -> Call:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise AnswerError("has a call without a name")
    arguments = function.get("arguments")
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
        return Call(function["name"], json.dumps(value, sort_keys=True))
    except (ValueError, RecursionError):
        return Call(function["name"], str(arguments))


def _optional_text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise AnswerError("has something else where text belongs")
    return value


def _count(usage: Any, names: Iterable[str]) -> int | None:
    found = [usage.get(name) for name in names]
    return next((one for one in found if type(one) is int and 0 <= one < 1 << 40), None)


def compare(recorded: Answer, replayed: Answer) -> Difference:
    """How the two differ. Counts of tokens and the model's name are not looked at."""
    if recorded.refusal is not None or replayed.refusal is not None:
        return _compare_refusals(recorded, replayed)
    if len(recorded.choices) != len(replayed.choices):
        counts = (f"{len(recorded.choices)} choices", f"{len(replayed.choices)} choices")
        return Difference(("choices",), None, counts)
    kinds: dict[Kind, None] = {}
    first: tuple[str, str] | None = None
    ratios = []
    for old, new in zip(recorded.choices, replayed.choices, strict=True):
        ratios.append(similarity(old.text, new.text))
        for kind, parts in _parting(old, new):
            kinds[kind] = None
            first = first or parts
    return Difference(tuple(kinds), sum(ratios) / len(ratios) if ratios else 1.0, first)


def _parting(old: Choice, new: Choice) -> Iterable[tuple[Kind, tuple[str, str]]]:
    if old.text != new.text:
        yield "text", first_difference(old.text, new.text)
    if old.calls != new.calls:
        yield "tool_calls", first_difference(_written(old.calls), _written(new.calls))
    if old.finish_reason != new.finish_reason:
        yield "finish_reason", (str(old.finish_reason), str(new.finish_reason))


def _written(calls: Iterable[Call]) -> str:
    return ", ".join(f"{call.name}({call.arguments})" for call in calls)


def _compare_refusals(recorded: Answer, replayed: Answer) -> Difference:
    old, new = recorded.refusal, replayed.refusal
    shown = tuple(
        "answered" if refusal is None else f"refused, {answer.status}: {refusal.message}"
        for answer, refusal in ((recorded, old), (replayed, new))
    )
    if old is None or new is None:
        return Difference(("status",), None, (shown[0], shown[1]))
    same = (recorded.status, old.code, old.param) == (replayed.status, new.code, new.param)
    return Difference((), None) if same else Difference(("refusal",), None, (shown[0], shown[1]))


def first_difference(a: str, b: str) -> tuple[str, str]:
    """Both texts around the place where they part."""
    at = _shared(a, b)
    start = max(0, at - BEFORE)
    return _excerpt(a, start, at + AFTER), _excerpt(b, start, at + AFTER)


def _excerpt(text: str, start: int, end: int) -> str:
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def _shared(a: str, b: str) -> int:
    """Characters that both begin with. By halves: comparing slices is far faster than characters."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def similarity(a: str, b: str) -> float:
    """Share of the words that both texts have in the same order (Ratcliff and Obershelp 1988), 0 to 1.

    Of CHARACTERS_COMPARED, and beside the shared beginning and end of WORDS_COMPARED; later ones count as
    other.
    """
    a, b = a[:CHARACTERS_COMPARED], b[:CHARACTERS_COMPARED]
    if a == b:
        return 1.0
    old, new = re.findall(r"\S+\s*|\s+", a), re.findall(r"\S+\s*|\s+", b)
    shortest = min(len(old), len(new))
    begin = next((i for i in range(shortest) if old[i] != new[i]), shortest)
    end = next((i for i in range(shortest - begin) if old[-1 - i] != new[-1 - i]), shortest - begin)
    middles = [words[begin : len(words) - end][:WORDS_COMPARED] for words in (old, new)]
    blocks = SequenceMatcher(None, middles[0], middles[1], autojunk=False).get_matching_blocks()
    shared = begin + end + sum(block.size for block in blocks)
    return 2 * shared / (len(old) + len(new))
