"""The async twins: the same answers, a loop never blocked, cancellation that reaches the engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from gemlet.errors import ContextLengthError, GemletError, UnsupportedParameterError
from tests.infer.fake_model import fake_decoder, fake_model
from tests.infer.test_chat import CONVERSATION, PROMPT
from tests.infer.test_leaving import idle


@pytest.fixture
def model():
    with fake_model(fake_decoder(delay=0.001)) as opened:
        yield opened


def test_same_answers(model):
    async def work():
        one = await model.agenerate(PROMPT, max_tokens=10, seed=1)
        several = await model.agenerate(PROMPT, max_tokens=10, seed=1, n=2)
        chat = await model.achat(CONVERSATION, max_tokens=10, seed=1)
        streamed = [event async for event in model.agenerate(PROMPT, max_tokens=10, seed=1, stream=True)]
        awaited = await model.achat(CONVERSATION, max_tokens=10, seed=1, stream=True)
        return one, several, chat, streamed, [event async for event in awaited]

    one, several, chat, streamed, awaited = asyncio.run(work())
    assert one.token_ids == model.generate(PROMPT, max_tokens=10, seed=1).token_ids
    expected = [done.token_ids for done in model.generate(PROMPT, max_tokens=10, seed=1, n=2)]
    assert [done.token_ids for done in several] == expected
    assert chat.token_ids == model.chat(CONVERSATION, max_tokens=10, seed=1).token_ids
    assert streamed[-1].completion.token_ids == one.token_ids
    assert awaited[-1].completion.token_ids == chat.token_ids


def test_many_at_once(model):
    async def work():
        return await asyncio.gather(*(model.agenerate([2, 300 + i], max_tokens=5, seed=i) for i in range(20)))

    for i, done in enumerate(asyncio.run(work())):
        assert done.token_ids == model.generate([2, 300 + i], max_tokens=5, seed=i).token_ids


def test_errors_arrive_where_they_are_awaited(model):
    async def work():
        with pytest.raises(ContextLengthError):
            await model.agenerate(PROMPT, max_tokens=10_000)
        with pytest.raises(UnsupportedParameterError, match="'colour'"):
            async for _ in model.agenerate(PROMPT, colour=1, stream=True):
                pass

    asyncio.run(work())


def test_a_failed_step_reaches_the_task():
    decoder = fake_decoder()
    decoder.fail = lambda batch: 1 / 0
    with fake_model(decoder) as model, pytest.raises(GemletError, match="ZeroDivisionError"):
        asyncio.run(model.agenerate(PROMPT))


def test_the_loop_is_never_blocked():
    """While a step takes 0.2 s and text is encoded, the loop goes on turning."""
    with fake_model(fake_decoder(delay=0.2)) as model:
        encode = model.tokenizer.encode

        def slow(text, bos=False):
            time.sleep(0.2)
            return encode(text, bos=bos)

        model.tokenize = lambda text, bos=True: slow(text, bos)

        async def work():
            task = asyncio.ensure_future(model.agenerate(PROMPT, max_tokens=2, ignore_eos=True))
            longest, last = 0.0, time.perf_counter()
            while not task.done():
                await asyncio.sleep(0.001)
                longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
            return longest

        assert asyncio.run(work()) < 0.15


@pytest.mark.parametrize("how", ["task", "timeout", "aclose", "break", "exit"])
def test_cancelling_reaches_the_engine(how):
    decoder = fake_decoder(delay=0.005)
    long = {"max_tokens": None, "ignore_eos": True}
    with fake_model(decoder) as model:

        async def work():
            if how == "task":
                task = asyncio.ensure_future(model.agenerate(PROMPT, **long))
                while model._engine.counts() != (0, 1):
                    await asyncio.sleep(0.001)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif how == "timeout":
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(model.agenerate(PROMPT, **long), 0.05)
            elif how == "aclose":
                async with contextlib.aclosing(model.agenerate(PROMPT, stream=True, **long)) as events:
                    await events.__anext__()
            elif how == "break":
                async for _ in model.agenerate(PROMPT, stream=True, **long):
                    break
            else:
                async with model.agenerate(PROMPT, stream=True, **long) as events:
                    await events.__anext__()
            return await asyncio.to_thread(idle, model)

        assert asyncio.run(work())
        assert len(decoder.steps) < 100


def test_a_loop_that_ends_early_leaves_nothing_running():
    with fake_model(fake_decoder(delay=0.005)) as model:

        async def work():
            return await model.agenerate(PROMPT, stream=True, max_tokens=None, ignore_eos=True)

        events = asyncio.run(work())  # the loop is closed while the request runs
        assert idle(model)
        events.close()


def test_cancelled_while_preparing_submits_nothing(model, monkeypatch):
    started, release = threading.Event(), threading.Event()

    def stuck(text, bos=True):
        started.set()
        assert release.wait(10)
        return [2]

    monkeypatch.setattr(model.tokenizer, "encode", stuck)

    async def work():
        task = asyncio.ensure_future(model.agenerate(PROMPT))
        assert await asyncio.to_thread(started.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()

    asyncio.run(work())
    assert model._engine.counts() == (0, 0)


def test_closed_while_the_request_is_prepared(model, monkeypatch):
    ready = threading.Event()
    encode = model.tokenizer.encode
    monkeypatch.setattr(model.tokenizer, "encode", lambda *a, **k: (ready.wait(10), encode(*a, **k))[1])

    async def work():
        stream = model.agenerate(PROMPT, max_tokens=None, ignore_eos=True, stream=True)
        reading = asyncio.create_task(stream.__anext__())
        await asyncio.sleep(0.05)
        await stream.aclose()
        ready.set()
        with pytest.raises(StopAsyncIteration):
            await reading
        assert model._engine.counts() == (0, 0)

    asyncio.run(work())


def test_a_stream_tells_how_much_of_its_prompt_is_read(model):
    async def work():
        stream = model.agenerate([2] + [300] * 150, max_tokens=3, seed=1, stream=True)
        assert stream.progress == (0, 0)
        await stream
        seen = [stream.progress]
        async for event in stream:
            seen.append(stream.progress)
            assert len(event.top) == 0
        return seen

    seen = asyncio.run(work())
    assert all(total == 151 for _, total in seen) and seen == sorted(seen)
    assert len(seen) == 4 and seen[1:] == [(151, 151)] * 3


def test_streamed_tokens_carry_their_alternatives(model):
    events = list(model.generate(PROMPT, max_tokens=4, seed=1, logprobs=2, stream=True))
    logprobs = events[-1].completion.logprobs
    assert [event.top for event in events] == [token.top for token in logprobs]
    assert all(len(event.top) == 2 for event in events)
