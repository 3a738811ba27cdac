"""An engine's events made into text, token events and completions, for waiting and for async readers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from gemlet.errors import GemletError, ModelClosedError
from gemlet.infer.requests import AnswerRequest, Cancelled, Event, Failed, Outputs, Started, Token
from gemlet.text.call_reader import CallReader
from gemlet.text.stream import TextStream
from gemlet.text.tokenizer import Tokenizer
from gemlet.text.tools import ToolUse
from gemlet.types import (
    Completion,
    FinishReason,
    Manifest,
    Timings,
    TokenEvent,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)


@dataclass(frozen=True)
class Prepared:
    """A request with what its text needs: strings that end it, what was changed about its messages, and the
    tools that it may call.
    """

    request: AnswerRequest
    stop: tuple[str, ...] = ()
    normalisations: tuple[str, ...] = ()
    tools: ToolUse | None = None


@dataclass
class _Choice:
    stream: TextStream
    calls: CallReader | None
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    first_at: float | None = None
    last_at: float | None = None
    drafted: int = 0
    accepted: int = 0
    completion: Completion | None = None

    def write(self, text: str, last: bool) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """Take more text of the answer; what of it is no call, and the pieces of calls."""
        if self.calls is None:
            deltas: tuple[ToolCallDelta, ...] = ()
        else:
            piece = self.calls.push(text)
            text, deltas = piece.text, piece.calls
            if last:
                rest = self.calls.finish()
                text, deltas = text + rest.text, deltas + rest.calls
        self.text += text
        return text, deltas


class Answer:
    """What has come of one request. Feed every event to `take`.

    A stop string is found here, in the text: the choice then ends, `cancel` is called with its index, and
    what the engine had computed beyond it is dropped, so that timing never shows in the result.
    """

    def __init__(
        self, prepared: Prepared, tokenizer: Tokenizer, manifest: Manifest, cancel: Callable[[int], None]
    ) -> None:
        self._request = prepared.request
        self._normalisations = prepared.normalisations
        self._tokenizer = tokenizer
        self._manifest = manifest
        self._cancel = cancel
        self._submitted = time.perf_counter()
        self._started: Started | None = None
        self._choices = [
            _Choice(TextStream(tokenizer, prepared.stop), calls) for calls in _call_readers(prepared)
        ]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self._request.ids)

    @property
    def completions(self) -> list[Completion]:
        """The choices that have ended, in their order."""
        return [choice.completion for choice in self._choices if choice.completion is not None]

    @property
    def begun(self) -> bool:
        """Whether a token of it has come."""
        return any(choice.token_ids for choice in self._choices)

    @property
    def finished(self) -> bool:
        """Whether every choice has ended."""
        return len(self.completions) == len(self._choices)

    def take(self, event: Event) -> TokenEvent | None:
        """The token event that an engine's event amounts to, if any. Raises what the request failed with."""
        if isinstance(event, Failed):
            raise _as_gemlet_error(event.error) from event.error
        if isinstance(event, Started):
            self._started = event
        elif isinstance(event, Token):
            return self._token(event)
        elif isinstance(event, Cancelled):
            return self._cancelled(event.index)
        return None

    def _token(self, event: Token) -> TokenEvent | None:
        choice = self._choices[event.index]
        if choice.completion is not None:
            return None  # computed before the engine heard of the stop string
        choice.first_at = choice.first_at or event.at
        choice.last_at = event.at
        choice.drafted, choice.accepted = event.drafted, event.accepted
        choice.token_ids.append(event.token_id)
        top: tuple[TokenLogprob, ...] = ()
        if event.logprob is not None:
            choice.logprobs.append(token_logprob(self._tokenizer, event.token_id, event.logprob, event.top))
            top = choice.logprobs[-1].top
        stopped_by_id = event.finish == "stop" and event.token_id in self._request.stop_ids
        text = "" if stopped_by_id else choice.stream.push(event.token_id)
        if event.finish is not None:
            text += choice.stream.finish()
        text, calls = choice.write(text, event.finish is not None or choice.stream.stopped is not None)
        completion = None
        if choice.stream.stopped is not None:
            completion = self._complete(event.index, "stop", choice.stream.stopped)
            if event.finish is None:
                self._cancel(event.index)
        elif event.finish is not None:
            completion = self._complete(event.index, event.finish, event.token_id if stopped_by_id else None)
        return TokenEvent(text, event.token_id, event.logprob, event.index, completion, top, calls)

    def _cancelled(self, index: int) -> TokenEvent | None:
        choice = self._choices[index]
        if choice.completion is not None:
            return None
        text, calls = choice.write(choice.stream.finish(), True)
        done = self._complete(index, "cancelled", None)
        return TokenEvent(text, None, None, index, done, tool_calls=calls)

    def _complete(self, index: int, reason: FinishReason, stop_reason: str | int | None) -> Completion:
        request, choice = self._request, self._choices[index]
        cached = 0 if self._started is None else self._started.cached_tokens
        calls = () if choice.calls is None else choice.calls.calls
        choice.completion = Completion(
            text=choice.text,
            token_ids=tuple(choice.token_ids),
            finish_reason="tool_calls" if calls and reason == "stop" else reason,
            stop_reason=stop_reason,
            tool_calls=calls,
            logprobs=None if request.logprobs is None else tuple(choice.logprobs),
            seed=request.seed,
            sampling=request.sampling,
            usage=Usage(len(request.ids), cached, len(choice.token_ids)),
            timings=self._timings(choice, len(request.ids) - cached),
            normalisations=self._normalisations,
            manifest=self._manifest,
        )
        return choice.completion

    def _timings(self, choice: _Choice, computed: int) -> Timings:
        now = time.perf_counter()
        started = now if self._started is None else self._started.at
        first, last = choice.first_at or now, choice.last_at or now
        prefill, decode, later = first - started, last - first, len(choice.token_ids) - 1
        return Timings(
            queue_s=started - self._submitted,
            prefill_s=prefill,
            decode_s=decode,
            ttft_s=None if choice.first_at is None else first - self._submitted,
            prefill_tokens_per_s=computed / prefill if choice.first_at and prefill > 0 else None,
            decode_tokens_per_s=later / decode if later > 0 and decode > 0 else None,
            draft_acceptance=choice.accepted / choice.drafted if choice.drafted else None,
            cache_miss_reason=None if self._started is None else self._started.cache_miss_reason,
        )


def _call_readers(prepared: Prepared) -> list[CallReader | None]:
    """A reader of calls for each choice; the calls' ids repeat when the same request is made again."""
    use, request = prepared.tools, prepared.request
    if use is None:
        return [None] * request.n
    asked = sha256(repr((request.ids, request.seed)).encode()).hexdigest()
    names = [tool.name for tool in use.tools if use.choice.name in (None, tool.name)]
    constrained = request.constraint is not None
    return [
        CallReader(names, constrained=constrained, parallel=use.parallel, seed=f"{asked} {index}")
        for index in range(request.n)
    ]


def token_logprob(
    tokenizer: Tokenizer, token_id: int, logprob: float, top: Iterable[tuple[int, float]] = ()
) -> TokenLogprob:
    """A token with its log-probability and those of the likeliest, as (id, logprob) pairs."""
    token = tokenizer.piece(token_id).decode("utf-8", errors="replace")
    alternatives = tuple(token_logprob(tokenizer, other, value) for other, value in top)
    return TokenLogprob(token, token_id, logprob, alternatives)


def outputs_of(event: Event) -> Outputs | None:
    """The outputs of a prompt request; None before the last event. Raises what the request failed with."""
    if isinstance(event, Failed):
        raise _as_gemlet_error(event.error) from event.error
    if isinstance(event, Cancelled):
        raise ModelClosedError("the model was closed before the request was done", hint="load it again")
    return event if isinstance(event, Outputs) else None


def _as_gemlet_error(error: Exception) -> GemletError:
    if isinstance(error, GemletError):
        return error
    hint = "close other models or ask for less" if isinstance(error, MemoryError) else None
    return GemletError(f"the request failed: {type(error).__name__}: {error}", hint=hint)
