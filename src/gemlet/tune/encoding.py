"""Contents to token ids, with a flag for each token that is to be learned."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import GemletError
from gemlet.infer.scoring import score_request
from gemlet.text.template import Rendered
from gemlet.text.tokenizer import Tokenizer
from gemlet.text.tools import Tool
from gemlet.tune.examples import Example, Pair
from gemlet.tune.lines import Refused
from gemlet.tune.shapes import ANSWERING, Chat, Content, Continuation, Plain, Preference, named

Item = Example | Pair
Template = Callable[[Sequence[Mapping[str, Any]], Sequence[Tool]], Rendered]
"""Messages and tools to ids, without a generation prompt, marked where the model's turns are."""

_MARKER = re.compile(r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,64}\]")
"""How control tokens are spelled."""


@dataclass(frozen=True)
class Encoder:
    """end_id: the token that ends a text that is no conversation, one of the model's stop ids."""

    tokenizer: Tokenizer
    template: Template
    end_id: int

    def encode(self, content: Content, source: str) -> tuple[Item, tuple[str, ...]]:
        """An item, and a line for everything that the template changed. Raises Refused."""
        try:
            if isinstance(content, Chat):
                return self._chat(content, source)
            if isinstance(content, Preference):
                return self._pair(content, source)
            return self._raw(content, source), ()
        except GemletError as error:
            otherwise = "messages" if isinstance(content, (Chat, Preference)) else "text"
            raise Refused(*named(error.message, otherwise)) from None

    def check_texts(self, texts: Sequence[str]) -> None:
        """That no text spells a control token, which the model would learn to write as letters."""
        for text in texts:
            if "\0" in text:
                raise Refused("text", "holds U+0000, which is no text")
            for found in _MARKER.finditer(text) if "<" in text or "[" in text else ():
                if self.tokenizer.control_id(found[0]) is not None:
                    reason = f"holds the control token {found[0]}: markers are put in by the template alone"
                    raise Refused("text", reason)

    def _raw(self, content: Plain | Continuation, source: str) -> Example:
        if isinstance(content, Plain):
            ids = self.tokenizer.encode(content.text, bos=True)
            start = 1
        else:
            request = score_request(self.tokenizer, content.prompt, content.completion)
            ids, start = list(request.ids), request.score_from or 0
        learned = np.ones(len(ids) + 1, np.bool_)
        learned[:start] = False
        return Example(np.array([*ids, self.end_id], np.int32), learned, source)

    def _chat(self, chat: Chat, source: str) -> tuple[Example, tuple[str, ...]]:
        rendered = self.template(chat.messages, chat.tools)
        learned = np.array(rendered.loss_mask, np.bool_)
        runs = _runs(learned)
        self._check_turns(rendered.ids, runs, [message.get("role") in ANSWERING for message in chat.messages])
        if chat.learned_from:
            later = sum(message.get("role") in ANSWERING for message in chat.messages[chat.learned_from :])
            learned[: runs[-later][0]] = False
        return Example(np.array(rendered.ids, np.int32), learned, source), rendered.normalisations

    def _check_turns(self, ids: Sequence[int], runs: Sequence[tuple[int, int]], answers: list[bool]) -> None:
        """That every turn of the model is marked, each ending with the token that ends it, learned once."""
        groups = sum(now and not before for before, now in zip([False, *answers], answers, strict=False))
        if not groups <= len(runs) <= sum(answers):
            raise Refused("messages", f"the template marks {len(runs)} turns to be learned, not {groups}")
        for start, end in runs:
            last = ids[end - 1]
            if start == 0 or not self.tokenizer.is_control(last) or ids[start:end].count(last) != 1:
                problem = (
                    "the template does not end each turn of the model with one control token to be learned"
                )
                raise Refused("messages", problem)

    def _pair(self, content: Preference, source: str) -> tuple[Pair, tuple[str, ...]]:
        sides: list[Example] = []
        lines: list[str] = []
        for side in (content.chosen, content.rejected):
            item, changed = self.encode(side, source)
            assert isinstance(item, Example)
            sides.append(item)
            lines += changed
        starts = [int(side.learned.argmax()) for side in sides]
        if not np.array_equal(sides[0].ids[: starts[0]], sides[1].ids[: starts[1]]):
            raise Refused("prompt", "is not read alike before chosen and before rejected")
        return Pair(*sides), tuple(lines)


def fitted(item: Item, length: int) -> Item | None:
    """The item cut behind `length` tokens; None where that leaves nothing to learn."""
    if isinstance(item, Pair):
        chosen, rejected = fitted(item.chosen, length), fitted(item.rejected, length)
        if isinstance(chosen, Example) and isinstance(rejected, Example):
            return Pair(chosen, rejected)
        return None
    if len(item.ids) <= length:
        return item
    if not item.learned[:length].any():
        return None
    return Example(item.ids[:length].copy(), item.learned[:length].copy(), item.source)


def examples_of(item: Item) -> tuple[Example, ...]:
    return (item.chosen, item.rejected) if isinstance(item, Pair) else (item,)


def longest(item: Item) -> int:
    """Tokens of the item's longest sequence."""
    return max(len(example.ids) for example in examples_of(item))


def _runs(learned: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Begin and end of each run of learned tokens."""
    edges = np.flatnonzero(np.diff(learned.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
