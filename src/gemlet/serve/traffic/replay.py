"""Recorded requests sent again, several at once, and each answer beside the one that was recorded."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gemlet.serve.traffic.answers import Answer, Difference, Kind, compare, read_answer
from gemlet.serve.traffic.records import Exchange, Place, RecordError, Seconds
from gemlet.serve.traffic.streams import MAX_ANSWER, AnswerError, Body
from gemlet.serve.traffic.target import EndpointError, Reply, Target

TRIES = 4
"""Of one request, while the answer is 429 or an error of the server; any other is sent once."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds between tries: doubled each time, unless the answer says how many."""

NOT_RETRIED = 501
"""An error of the server that another try will not change."""

FAILURES_IN_A_ROW = 5
"""Requests that reach nobody, or are not let in, after which the others are not sent."""

ASKED = 60
"""Characters of a request that are kept to be shown."""

SECRET_LENGTH = 8
"""Characters from which a key is one. Words such as "none" stand in for a key, and in answers too."""


@dataclass(frozen=True)
class Plan:
    """How to send. `model` replaces the recorded name; `ask_usage` also asks streams for token counts.

    `seconds`: for one answer.
    """

    model: str | None = None
    concurrency: int = 1
    seconds: float = 600.0
    ask_usage: bool = False


@dataclass(frozen=True)
class Result:
    """What became of one request: an answer, how long it took and how it differs, or else a failure.

    `asked`: the beginning of its last message or prompt. `repeatable`: the same model must answer it alike.
    """

    place: Place
    path: str
    asked: str
    stream: bool
    repeatable: bool
    recorded: Answer
    recorded_seconds: Seconds
    replayed: Answer | None = None
    seconds: Seconds | None = None
    failure: EndpointError | None = None
    difference: Difference | None = None
    tries: int = 1

    @property
    def outcome(self) -> Literal["equal", "different", "failed", "unfinished"]:
        """One word for it."""
        if self.failure is not None:
            return "unfinished" if self.failure.kind == "stopped" else "failed"
        return "different" if self.kinds else "equal"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """In what the answers differ."""
        return () if self.difference is None else self.difference.kinds


def why_not(exchange: Exchange) -> str | None:
    """Why a record has no answer to compare with, in words; None where it has."""
    if exchange.ended == "cut":
        return "recorded in part: the answer was too large"
    if exchange.ended == "gone":
        return "the client left before the end"
    if exchange.request is None:
        return "the body was no JSON object"
    if exchange.ended == "broken" or exchange.answer is None:
        return "the answer broke off"
    return None


def is_repeatable(request: dict[str, Any]) -> bool:
    """Whether the same model must give the same answer: greedy, or drawn with a seed."""
    options = request.get("options")  # where Ollama's API has them
    settings = request | options if isinstance(options, dict) else request
    return settings.get("seed") is not None or settings.get("temperature") == 0


def is_streamed(path: str, request: dict[str, Any]) -> bool:
    """Whether a stream is asked for; in Ollama's API one that says nothing does."""
    return request.get("stream", path.startswith("/api/")) is True


def asked(request: dict[str, Any]) -> str:
    """What a person knows a request again by."""
    messages = request.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    text = last.get("content") if isinstance(last, dict) else request.get("prompt", request.get("input"))
    return "" if text is None else str(text)[:ASKED]


class Replay:
    """An iterator of results, in the order in which they come. `stop` ends it soon, from any thread.

    `gave_up` says why the rest was not sent, if it was not for `stop`.
    """

    def __init__(self, places: Sequence[Place], target: Target, plan: Plan) -> None:
        self.gave_up: str | None = None
        self._target = target
        self._plan = plan
        self._stopped = threading.Event()
        self._places = iter(places)
        self._lock = threading.Lock()
        self._results: queue.Queue[Result | Exception | None] = queue.Queue()
        self._working = min(plan.concurrency, len(places))
        self._in_a_row = 0
        for number in range(self._working):
            threading.Thread(target=self._work, name=f"gemlet-replay-{number}", daemon=True).start()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """The next one that is done. Raises RecordError where a file was changed meanwhile."""
        while self._working:
            try:
                result = self._results.get(timeout=0.5)  # so that Ctrl-C is heard on every system
            except queue.Empty:
                continue
            if isinstance(result, Exception):
                self.stop()
                while self._working:  # nobody uses the target any more when it is closed
                    self._working -= self._results.get() is None
                raise result
            if result is not None:
                self._watch(result)
                return result
            self._working -= 1
        raise StopIteration

    def stop(self) -> None:
        """Send nothing more and end what is under way."""
        self._stopped.set()
        self._target.abort()

    def _watch(self, result: Result) -> None:
        answer, failure = result.replayed, result.failure
        shut = answer is not None and answer.status in (401, 403)
        self._in_a_row = self._in_a_row + 1 if shut or (failure and failure.kind == "connection") else 0
        if self._in_a_row >= FAILURES_IN_A_ROW and not self._stopped.is_set():
            last = failure.message if failure is not None else str(answer and answer.refusal)
            self.gave_up = f"{FAILURES_IN_A_ROW} requests in a row failed alike: {last}"
            self.stop()

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                place = next(self._places, None)
            if place is None:
                break
            try:
                self._results.put(self._one(place))
            except Exception as error:  # is raised where results are awaited
                self._results.put(error)
        self._results.put(None)

    def _one(self, place: Place) -> Result:
        exchange = place.read()
        request = exchange.request or {}
        result = Result(
            place,
            exchange.path,
            asked(request),
            is_streamed(exchange.path, request),
            is_repeatable(request),
            recorded_answer(place, exchange),
            exchange.seconds,
        )
        body = self._body(exchange.path, request)
        for number in range(1, TRIES + 1):
            try:
                with self._target.send(exchange.path, body, self._plan.seconds) as reply:
                    answer, seconds = self._read(reply)
                    wait = _wait(reply.retry_after, number)
            except EndpointError as error:
                failure = EndpointError(error.kind, self._hide(error.message))
                return replace(result, failure=failure, tries=number)
            again = answer.status == 429 or (answer.status >= 500 and answer.status != NOT_RETRIED)
            if not again or number == TRIES or self._stopped.wait(wait):
                break
        difference = compare(result.recorded, answer)
        return replace(result, replayed=answer, seconds=seconds, difference=difference, tries=number)

    def _body(self, path: str, request: dict[str, Any]) -> bytes:
        changes: dict[str, Any] = {} if self._plan.model is None else {"model": self._plan.model}
        if self._plan.ask_usage and is_streamed(path, request) and "completions" in path:
            options = request.get("stream_options")
            given = options if isinstance(options, dict) else {}
            changes["stream_options"] = given | {"include_usage": True}
        return json.dumps(request | changes).encode()

    def _hide(self, text: str) -> str:
        secret = self._target.secret
        if secret is None or len(secret) < SECRET_LENGTH:
            return text
        return text.replace(secret, "[key]").replace(json.dumps(secret)[1:-1], "[key]")

    def _read(self, reply: Reply) -> tuple[Answer, Seconds]:
        if 300 <= reply.status < 400:
            raise EndpointError("redirect", f"answers {reply.status}; redirects are not followed")
        body = Body(reply.content_type)
        if not body.known and reply.status < 400:
            raise EndpointError("content type", f"answers with {reply.content_type[:60] or 'no type'}")
        first_byte = first_token = None
        try:
            for piece in reply.pieces:
                news = body.feed(piece)
                now = time.perf_counter() - reply.began
                first_byte = now if first_byte is None and piece else first_byte
                first_token = now if first_token is None and news else first_token
                if body.too_large:
                    raise EndpointError("too large", f"answers with more than {MAX_ANSWER} bytes")
            total = time.perf_counter() - reply.began
            if not body.whole:
                raise EndpointError("cut off", "the stream ends without an end")
            answer = read_answer(reply.status, json.loads(self._hide(json.dumps(body.result()))))
        except AnswerError as error:
            if reply.status < 400:
                raise EndpointError("unreadable", f"the answer {error}") from None
            answer, total = read_answer(reply.status, {}), time.perf_counter() - reply.began
        return answer, Seconds(first_byte, first_token, total)


def recorded_answer(place: Place, exchange: Exchange) -> Answer:
    """What was recorded. Raises RecordError where it is in the form of no API."""
    try:
        return read_answer(exchange.status, exchange.answer or {})
    except AnswerError as error:
        raise RecordError(place.path, place.line, f"its answer {error}") from None


def _wait(retry_after: str | None, number: int) -> float:
    """Seconds until the next try; a date for an answer is not read."""
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 9:
        return min(float(retry_after), LONGEST_WAIT)
    return float(min(FIRST_WAIT * 2 ** (number - 1), LONGEST_WAIT))
