"""Numbers of prompts: log-probabilities of continuations by lm-eval's rule, and many prompts at once."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from gemlet.errors import InvalidRequestError
from gemlet.infer.answer import outputs_of
from gemlet.infer.engine import Engine, Ticket
from gemlet.infer.options import check_ids
from gemlet.infer.requests import Event, Outputs, PromptRequest
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import Score

TextOrIds = str | Sequence[int]


def score_request(tokenizer: Tokenizer, context: TextOrIds, continuation: TextOrIds) -> PromptRequest:
    """The request whose outputs score a continuation.

    Text is encoded jointly: the context's trailing spaces belong to the continuation, one BOS comes first,
    and the continuation's tokens are those of the whole behind as many as the context alone has. They are
    read behind the tokens of the context alone, also where the whole begins otherwise ("The c", "at"): so
    does lm-eval, and scores are to be compared. Ids are taken as they are. An empty context is the BOS
    alone. InvalidRequestError for a continuation without tokens of its own.
    """
    if isinstance(context, str) != isinstance(continuation, str):
        raise InvalidRequestError("context and continuation must both be text, or both be token ids")
    if isinstance(context, str) and isinstance(continuation, str):
        before = tokenizer.encode(context.rstrip(), bos=True)
        behind = tokenizer.encode(context + continuation, bos=True)[len(before) :]
        before = before or [tokenizer.bos_id]  # where text gets no BOS, something must still come first
    else:
        before, behind = check_ids(context) or [tokenizer.bos_id], check_ids(continuation)
    if not behind:
        raise InvalidRequestError(
            f"the continuation {continuation!r} adds no token to its context",
            hint="it is empty, or its characters are part of the context's last token",
        )
    return PromptRequest((*before, *behind), score_from=len(before))


def as_score(request: PromptRequest, outputs: Outputs) -> Score:
    """The score that the outputs of a score request amount to."""
    return Score(
        logprob=float(sum(outputs.logprobs)),
        token_ids=request.ids[request.score_from :],
        token_logprobs=outputs.logprobs,
        is_greedy=all(outputs.greedy),
    )


def read_prompts(engine: Engine, requests: Iterable[PromptRequest], at_once: int) -> Iterator[Outputs]:
    """The outputs of each request, in order, with `at_once` requests in the engine at a time."""
    running: deque[tuple[Ticket, queue.SimpleQueue[Event]]] = deque()
    remaining = iter(requests)
    try:
        while True:
            while len(running) < at_once and (request := next(remaining, None)) is not None:
                events: queue.SimpleQueue[Event] = queue.SimpleQueue()
                running.append((engine.submit(request, events.put), events))
            if not running:
                return
            yield _last(running[0][1])
            running.popleft()
    finally:
        for ticket, _ in running:
            ticket.cancel()


async def read_prompts_async(
    engine: Engine, requests: Iterable[PromptRequest], at_once: int
) -> list[Outputs]:
    """The same for an event loop, all at the end. Cancelling the task that waits cancels the requests."""
    import asyncio

    loop, places = asyncio.get_running_loop(), asyncio.Semaphore(at_once)

    async def read(request: PromptRequest) -> Outputs:
        events: asyncio.Queue[Event] = asyncio.Queue()

        def sink(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        async with places:
            ticket = engine.submit(request, sink)
            try:
                while (outputs := outputs_of(await events.get())) is None:
                    pass
                return outputs
            finally:
                ticket.cancel()

    reading = [asyncio.ensure_future(read(request)) for request in requests]
    try:
        return list(await asyncio.gather(*reading))
    finally:
        for task in reading:
            task.cancel()


def _last(events: queue.SimpleQueue[Event]) -> Outputs:
    while (outputs := outputs_of(events.get())) is None:
        pass
    return outputs
