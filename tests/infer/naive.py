"""What the engine must equal: one sequence at a time, the whole prefix read again for every token."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field

import numpy as np

from gemlet.infer.engine import Engine, Ticket
from gemlet.infer.requests import (
    AnswerRequest,
    Cancelled,
    Event,
    Failed,
    Outputs,
    PromptRequest,
    Started,
    Token,
)
from gemlet.infer.sample import Sampler, logprob
from tests.infer.fakes import FakeDecoder, hidden_after, logits_after


def naive_answer(decoder: FakeDecoder, request: AnswerRequest, index: int) -> list[tuple]:
    """(token, logprob, top, finish) of one choice."""
    vocab = decoder.config.vocab_size
    sampler = Sampler(
        request.sampling, seed=request.seed, choice=index, prompt_ids=request.ids, ranking=decoder
    )
    matcher = None if request.constraint is None else request.constraint.matcher(request.stop_ids)
    ids, answer = request.ids, []
    while True:
        row = logits_after(ids, vocab, decoder.stop_bias)
        token = sampler.choose(row, len(ids), None if matcher is None else matcher.allowed())
        complete = matcher is not None and matcher.accept(token)
        wants = request.logprobs is not None
        value, top = logprob(row, token, request.logprobs, decoder) if wants else (None, ())
        ids = (*ids, token)
        finish = "stop" if complete or token in request.stop_ids else None
        if finish is None and len(ids) == len(request.ids) + request.max_tokens:
            finish = "length"
        answer.append((token, value, top, finish))
        if finish:
            return answer


def naive_outputs(decoder: FakeDecoder, request: PromptRequest) -> Outputs:
    vocab, ids = decoder.config.vocab_size, request.ids
    rows = [logits_after(ids[: p + 1], vocab, decoder.stop_bias) for p in range(len(ids))]
    hidden = [hidden_after(ids[: p + 1]) for p in request.hidden]
    scored = range((request.score_from or len(ids)) - 1, len(ids) - 1)
    return Outputs(
        np.array([rows[p] for p in request.logits], np.float32).reshape(-1, vocab),
        np.array(hidden, np.float32).reshape(-1, decoder.config.hidden_size),
        tuple(logprob(rows[p], ids[p + 1], 0, decoder)[0] for p in scored),
        tuple(int(rows[p].argmax()) == ids[p + 1] for p in scored),
    )


@dataclass
class Running:
    """A submitted request and what came of it."""

    request: AnswerRequest | PromptRequest
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    ticket: Ticket | None = None
    started: Started | None = None
    tokens: dict[int, list[tuple]] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    outputs: Outputs | None = None
    error: Exception | None = None

    @classmethod
    def submit(cls, engine: Engine, request: AnswerRequest | PromptRequest) -> Running:
        running = cls(request)
        running.ticket = engine.submit(request, running.events.put)
        return running

    @property
    def finished(self) -> bool:
        choices = getattr(self.request, "n", None)
        return self.error is not None or (self.outputs is not None) or len(self.ended) == choices

    def take(self) -> Event:
        """Wait for one event and note it."""
        event = self.events.get(timeout=20)
        assert not self.finished, f"{event} after the end"
        if isinstance(event, Started):
            assert self.started is None
            self.started = event
        elif isinstance(event, Token):
            assert event.index not in self.ended
            entry = (event.token_id, event.logprob, event.top, event.finish)
            self.tokens.setdefault(event.index, []).append(entry)
            if event.finish:
                self.ended[event.index] = event.finish
        elif isinstance(event, Cancelled):
            assert event.index not in self.ended
            self.ended[event.index] = "cancelled"
            if not isinstance(self.request, AnswerRequest):
                self.error = RuntimeError("cancelled")
        elif isinstance(event, Outputs):
            self.outputs = event
        elif isinstance(event, Failed):
            self.error = event.error
        return event

    def wait(self) -> Running:
        """Wait for the last event."""
        while not self.finished:
            self.take()
        assert self.events.empty()
        return self

    def check(self, decoder: FakeDecoder) -> None:
        """Assert that the result is the naive one; a cancelled choice is a beginning of it."""
        if isinstance(self.request, PromptRequest):
            if self.outputs is not None:
                assert_outputs_equal(self.outputs, naive_outputs(decoder, self.request))
            return
        for index in range(self.request.n):
            got, expected = self.tokens.get(index, []), naive_answer(decoder, self.request, index)
            if self.ended[index] == "cancelled":
                assert got == expected[: len(got)]
            else:
                assert got == expected


def assert_outputs_equal(got: Outputs, expected: Outputs) -> None:
    assert np.array_equal(got.logits, expected.logits)
    assert np.array_equal(got.hidden, expected.hidden)
    assert got.logprobs == expected.logprobs
    assert got.greedy == expected.greedy
