"""What a caller asks for, checked and made into a request: limits, stops, sampling."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemlet.errors import ContextLengthError, InvalidRequestError
from gemlet.infer.adapters import LoadedAdapter
from gemlet.infer.answer import Prepared
from gemlet.infer.call_shape import call_shape
from gemlet.infer.constrain import Constraint
from gemlet.infer.requests import AnswerRequest
from gemlet.infer.response_format import Shape
from gemlet.infer.sample import REACH, check_seed, draw_seed, merge_sampling
from gemlet.text.tools import ToolUse
from gemlet.types import Sampling

Stop = str | int | Sequence[str | int]


@dataclass(frozen=True)
class Options:
    """The parameters that `generate` and `chat` share, as they were given."""

    max_tokens: int | None
    n: int
    stop: Stop
    seed: int | None
    logprobs: int
    ignore_eos: bool
    adapter: str | None
    sampling: Mapping[str, Any]
    shape: Shape | None = None
    tools: ToolUse | None = None
    truncation: str | None = None
    cache: bool = True
    draft: bool = True

    @property
    def truncates(self) -> bool:
        """Whether what is too long is to be shortened. InvalidRequestError for an unknown value."""
        if self.truncation not in (None, "disabled", "auto"):
            raise InvalidRequestError(f"truncation must be disabled or auto, not {self.truncation!r}")
        return self.truncation == "auto"


@dataclass(frozen=True)
class Defaults:
    """What a model brings along: its sampling, its stop ids, and the sizes that bound a request."""

    sampling: Sampling
    stop_ids: tuple[int, ...]
    context: int
    vocab_size: int


def prepare(
    ids: Sequence[int],
    options: Options,
    defaults: Defaults,
    stop: Sequence[str] = (),
    normalisations: tuple[str, ...] = (),
    adapter: LoadedAdapter | None = None,
    constraint: Constraint | None = None,
) -> Prepared:
    """The request for an answer to `ids`. `stop`: strings that end it as the model's stop ids do.

    Raises InvalidRequestError, UnsupportedParameterError for an unknown name, ContextLengthError.
    """
    _check_whole("n", options.n, 1)
    _check_whole("logprobs", options.logprobs, 0, REACH)
    for name in ("ignore_eos", "cache", "draft"):
        check_switch(name, getattr(options, name))
    max_tokens = options.max_tokens
    if max_tokens is None:
        max_tokens = defaults.context - len(ids)
        if max_tokens < 1:
            hint = f"the prompt alone has {len(ids)}"
            raise ContextLengthError(len(ids) + 1, defaults.context, hint=hint)
    _check_whole("max_tokens", max_tokens, 1)
    strings, stop_ids = _split_stops(options.stop, defaults.vocab_size)
    request = AnswerRequest(
        ids=tuple(ids),
        max_tokens=max_tokens,
        sampling=merge_sampling(defaults.sampling, options.sampling, defaults.vocab_size),
        seed=draw_seed() if options.seed is None else check_seed(options.seed),
        n=options.n,
        stop_ids=frozenset(stop_ids if options.ignore_eos else {*stop_ids, *defaults.stop_ids}),
        logprobs=options.logprobs or None,
        adapter=adapter,
        constraint=constraint,
        cache=options.cache,
        draft=options.draft,
    )
    ends = strings if options.ignore_eos else (*strings, *stop)
    return Prepared(request, tuple(dict.fromkeys(ends)), normalisations, options.tools)


def shape_of_answer(options: Options) -> Shape | None:
    """What the whole answer is held to: its shape, calls of tools, or one of both.

    Raises InvalidRequestError for tools beside a regex or a grammar, and as `call_shape` does.
    """
    shape, use = options.shape, options.tools
    if use is None:
        return shape
    if shape is not None and shape.kind != "schema":
        raise InvalidRequestError(f"{shape.parameter} and tools exclude each other: calls have a shape too")
    return call_shape(use, shape)


def _split_stops(stop: Stop, vocab_size: int) -> tuple[list[str], set[int]]:
    given = [stop] if isinstance(stop, (str, int)) else stop
    if not isinstance(given, Iterable):
        raise InvalidRequestError(f"stop must be text, token ids, or a list of them, not {stop!r}")
    strings: list[str] = []
    ids: set[int] = set()
    for item in given:
        if isinstance(item, str) and item:
            strings.append(item)
        elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item < vocab_size:
            ids.add(item)
        else:
            raise InvalidRequestError(f"stop: {item!r} is neither text nor a token id")
    return strings, ids


def _check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high and value > high):
        limit = "" if high is None else f" to {high}"
        raise InvalidRequestError(f"{name} must be a whole number from {low}{limit}, not {value!r}")


def check_switch(name: str, value: object) -> None:
    """InvalidRequestError unless the value is true or false."""
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be true or false, not {value!r}")


def check_ids(ids: Iterable[Any]) -> list[int]:
    """Token ids as plain numbers. InvalidRequestError for anything else; the engine checks their range."""
    if isinstance(ids, (Mapping, bytes)) or not isinstance(ids, Iterable):
        raise InvalidRequestError(f"token ids must be a list of numbers, not {type(ids).__name__}")
    return [_check_id(item) for item in ids]


def _check_id(item: Any) -> int:
    try:
        if isinstance(item, bool):
            raise TypeError
        return operator.index(item)
    except TypeError:  # also an array, a row of ids where one belongs
        raise InvalidRequestError(f"{item!r} is not a token id") from None
