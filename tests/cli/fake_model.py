"""A stand-in for the library's model, with the same types; also a program to run in a pseudo-terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from gemlet.errors import ContextLengthError
from gemlet.types import Completion, Manifest, Message, Sampling, Timings, TokenEvent, Usage

MANIFEST = Manifest("fake", "0", "0", None, None, "int8", "int8", "bf16", 1.0, "scalar", "0")


@dataclass
class FakeModel:
    """Answers with `answer` word by word; `calls` records what was asked. `context` counts words."""

    answer: str = "The sky **is** blue."
    delay_s: float = 0.0
    context: int = 10_000
    notices: Sequence[str] = ("using the fake model",)
    reference: str = "fake"
    normalisations: tuple[str, ...] = ()
    calls: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    loaded: list[dict[str, Any]] = field(default_factory=list)
    closed: int = 0
    cancelled: int = 0
    interrupt_at: int | None = None
    config: Any = field(default_factory=lambda: SimpleNamespace(family="gemma3"))

    def load(self, reference: str | None, **options: Any) -> FakeModel:
        self.loaded.append({"reference": reference, **options})
        return self

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed += 1

    def generate(self, prompt: str, **options: Any) -> Iterator[TokenEvent]:
        return self._events(prompt, [prompt], options)

    def chat(self, messages: Sequence[Any], **options: Any) -> Iterator[TokenEvent]:
        contents = [m.content if isinstance(m, Message) else m["content"] for m in messages]
        return self._events(list(messages), contents, options)

    def _events(self, asked: Any, contents: list[str], options: dict[str, Any]) -> Iterator[TokenEvent]:
        self.calls.append((asked, options))
        words = sum(len(content.split()) for content in contents)
        if words > self.context:
            raise ContextLengthError(words, self.context)
        return self._stream(words, options)

    def _stream(self, words: int, options: dict[str, Any]) -> Iterator[TokenEvent]:
        pieces = self.answer.split(" ")
        pieces = [pieces[0], *(f" {piece}" for piece in pieces[1:])]
        try:
            for index in range(options.get("n", 1)):
                for number, piece in enumerate(pieces):
                    if number == self.interrupt_at:
                        raise KeyboardInterrupt
                    time.sleep(self.delay_s)
                    yield TokenEvent(piece, 1000 + number, -0.5, index)
                yield TokenEvent("", None, None, index, self._completion(words, len(pieces), options))
        except (GeneratorExit, KeyboardInterrupt):
            self.cancelled += 1
            raise

    def _completion(self, words: int, tokens: int, options: dict[str, Any]) -> Completion:
        return Completion(
            text=self.answer,
            token_ids=tuple(range(1000, 1000 + tokens)),
            finish_reason="stop",
            stop_reason=106,
            tool_calls=(),
            logprobs=None,
            seed=options.get("seed", 7),
            sampling=Sampling(temperature=options.get("temperature", 1.0)),
            usage=Usage(words, 0, tokens),
            timings=Timings(0.0, 0.1, 0.2, 0.1, 120.0, 50.0),
            normalisations=self.normalisations,
            manifest=MANIFEST,
        )


if __name__ == "__main__":  # a program for tests in a pseudo-terminal: fake_model.py DELAY_S ANSWER VERB…
    from gemlet.cli.main import main

    fake = FakeModel(delay_s=float(sys.argv[1]), answer=sys.argv[2])
    sys.exit(main(sys.argv[3:], load=fake.load))
