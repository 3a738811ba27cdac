"""A constrained answer is the same whatever surrounds it: drafts, neighbours, chunks, choices, endings."""

from __future__ import annotations

import functools
import json
import random

import numpy as np
import pytest

from gemlet.errors import InvalidRequestError
from gemlet.infer.allowed import Allowed
from gemlet.infer.constrain import Constraint, Constraints
from gemlet.infer.engine import Engine
from gemlet.infer.matcher import Matcher
from gemlet.infer.requests import AnswerRequest
from gemlet.infer.response_format import Shape, schema_text
from gemlet.infer.sample import choose, choose_allowed
from gemlet.infer.scheduler import Limits
from gemlet.infer.sequences import AnswerSequence
from gemlet.infer.speculate import AdaptiveSpeculator, Drafts
from gemlet.ops.batch import Batch
from gemlet.types import Sampling
from tests.infer.drafters import KnowingSpeculator, random_speculator
from tests.infer.fake_model import fake_decoder, fake_model, small_tokenizer
from tests.infer.fakes import STOP, FakeDecoder
from tests.infer.naive import Running, naive_answer

RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
SHAPES = (
    Shape("schema", schema_text(RECORD), "response_format"),
    Shape("schema", '{"type":"object"}', "response_format"),
    Shape("regex", "(ab|a){3,30}c?", "regex"),
    Shape("regex", r"\d{4}-\d{2}-\d{2}( and \d{4}-\d{2}-\d{2})*", "regex"),
    Shape("lark", 'start: "yes" | "no" | item+\nitem: "-" /[a-z ]{1,9}/ "\\n"', "grammar"),
)
SAMPLINGS = (
    Sampling(temperature=0.0),
    Sampling(top_k=20, top_p=0.95),
    Sampling(top_k=0, top_p=0.9),
    Sampling(min_p=0.1),
    Sampling(
        top_k=10,
        repetition_penalty=1.4,
        presence_penalty=0.5,
        frequency_penalty=0.3,
        logit_bias={7: 3.0, 300: 9.0, STOP: -5.0},
    ),
    Sampling(temperature=0.0, frequency_penalty=0.7),
)


@functools.cache
def constraints() -> Constraints:
    return Constraints(small_tokenizer(), (STOP,))


def constraint(shape: Shape) -> Constraint:
    return constraints().compile(shape)


def asked(rng: random.Random, shape: Shape | None) -> AnswerRequest:
    tokens = list(range(2, 640))
    return AnswerRequest(
        (2, *rng.choices(tokens, k=rng.randint(0, 50))),
        rng.randint(1, 70),
        rng.choice(SAMPLINGS),
        rng.randint(0, 5),
        n=rng.choice([1, 1, 2, 5]),
        # Without an end, with one that is a control token, and with one that is text to the grammar.
        stop_ids=frozenset(rng.choice([[], [STOP], [STOP], [STOP, 300]])),
        logprobs=rng.choice([None, 0, 3]),
        constraint=None if shape is None else constraint(shape),
    )


class Mixed:
    """Some steps are drafted by what knows the answer, others as always."""

    def __init__(self, knowing: KnowingSpeculator, rng: random.Random) -> None:
        self._both = knowing, AdaptiveSpeculator()
        self._rng = rng

    def drafts(self, sequences: list[AnswerSequence], beside: int, room: int) -> Drafts:
        return self._rng.choice(self._both).drafts(sequences, beside, room)

    def measured(self, rows: int, beside: int, seconds: float) -> None:
        """The cost of a step decides nothing here."""

    def forget(self, id: int) -> None:
        for one in self._both:
            one.forget(id)

    def kv_bytes(self, positions: int) -> int:
        return 0

    def close(self) -> None:
        for one in self._both:
            one.close()


class Truth:
    """The answers of a fake decoder, computed once."""

    def __init__(self, decoder: FakeDecoder) -> None:
        self._decoder = decoder
        self._known: dict[tuple[int, int], list[int]] = {}

    def __call__(self, sequence: AnswerSequence) -> list[int]:
        key = id(sequence.request), sequence.index
        if key not in self._known:
            answer = naive_answer(self._decoder, sequence.request, sequence.index)
            self._known[key] = [token for token, *_ in answer]
        return self._known[key]


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_one_at_a_time_without_drafts(seed: int) -> None:
    """Random requests, constrained and not, in company, with random chunks, drafts and cancellations."""
    rng = random.Random(seed)
    decoder = fake_decoder(max_rows=rng.choice([8, 24, 64]), stop_bias=rng.choice([0.0, 3.0]))
    speculator = Mixed(random_speculator(Truth(decoder), rng), rng)
    limits = Limits(decoder.max_rows, rng.choice([1, 8]), rng.choice([1, 3, 7]))
    engine = Engine(decoder, limits=limits, shortest_prefix=2, speculator=speculator)
    done: list[Running] = []
    for _ in range(2):
        batch = [
            Running.submit(engine, asked(rng, rng.choice([*SHAPES, None]))) for _ in range(rng.randint(2, 8))
        ]
        for running in batch:
            if rng.random() < 0.2:
                for _ in range(rng.randint(0, 6)):
                    if not running.finished:
                        running.take()
                assert running.ticket is not None
                running.ticket.cancel(rng.choice([None, 0]))
        done += [running.wait() for running in batch]
    assert not [running.error for running in done if running.error is not None]
    for running in done:
        running.check(decoder)
    engine.close()


def test_forced_text_is_drafted_and_saves_steps() -> None:
    """Whoever writes what is forced in the usual tokens needs one step for all of them."""
    text = '{"temperature_in_degrees":'
    ids = small_tokenizer().encode(text + "1}")
    decoder = fake_decoder(max_rows=64)
    schema = {
        "properties": {"temperature_in_degrees": {"enum": [1, 2]}},
        "required": ["temperature_in_degrees"],
        "additionalProperties": False,
    }
    shape = Shape("schema", schema_text({"type": "object", **schema}), "response_format")
    likes = Sampling(temperature=0.0, logit_bias=dict.fromkeys(ids, 100.0))
    request = AnswerRequest((2,), 60, likes, 1, stop_ids=frozenset([STOP]), constraint=constraint(shape))
    engine = Engine(decoder, speculator=AdaptiveSpeculator())
    running = Running.submit(engine, request).wait()
    engine.close()
    running.check(decoder)
    written = [token for token, *_ in running.tokens[0]]
    assert json.loads(small_tokenizer().decode(written)).keys() == {"temperature_in_degrees"}
    assert len(decoder.steps) < len(written)


def naive_allowed(shape: Shape, taken: list[int], stop_ids: tuple[int, ...]) -> np.ndarray:
    """What a matcher allows that has seen nothing but these tokens."""
    matcher = constraint(shape).matcher(stop_ids)
    for token in taken:
        matcher.allowed()
        matcher.accept(token)
    return matcher.allowed().ids


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.text[:12])
def test_guesses_leave_no_trace(shape: Shape) -> None:
    rng = random.Random(5)
    for _ in range(6):
        matcher: Matcher = constraint(shape).matcher((STOP,))
        taken: list[int] = []
        for _ in range(40):
            if rng.random() < 0.5:
                matcher.forced()
            draft = matcher.fitting(rng.choices(range(2, 640), k=8)) or matcher.forced()[:8]
            matcher.prepare(draft)
            for guess in [*draft, None]:
                allowed = matcher.allowed().ids
                assert np.array_equal(allowed, naive_allowed(shape, taken, (STOP,)))
                right = guess is not None and rng.random() < 0.7
                token = guess if right and guess in allowed else int(rng.choice(allowed))
                if matcher.accept(token):
                    break
                taken.append(token)
                if token != guess:
                    break
            else:
                continue
            if token == STOP or matcher._matcher.is_stopped():
                break


@pytest.mark.parametrize("count", [1, 2, 30, 600, 640])
@pytest.mark.parametrize("sampling", SAMPLINGS[:4])
def test_choosing_among_the_largest_equals_choosing_among_all(count: int, sampling: Sampling) -> None:
    rng = np.random.default_rng(count)
    decoder = fake_decoder()
    for _ in range(30):
        row = rng.normal(0, 2, 640).astype(np.float32).round(1)  # with equal logits
        ids = np.sort(rng.choice(640, count, replace=False))
        bits = np.zeros(640, np.uint8)
        bits[ids] = 1
        allowed = Allowed(np.packbits(bits, bitorder="little"))
        assert np.array_equal(allowed.ids, ids)
        assert np.array_equal(allowed.holds(np.arange(640)), bits == 1)
        u = float(rng.random())
        assert (
            choose_allowed(row, allowed, sampling, u, decoder) == ids[choose(row[ids], sampling, u, decoder)]
        )


def test_stop_strings_cut_at_the_same_place_with_drafts_and_without() -> None:
    asked = {"regex": "(abc|abd){40,60}", "n": 4, "seed": 2, "stop": ["dabd", "cabc"], "logprobs": 1}
    done = []
    for speculator in (None, AdaptiveSpeculator()):
        with fake_model(speculator=speculator) as model:
            done.append(model.generate("x", **asked))
    assert [(a.text, a.token_ids, a.stop_reason, a.logprobs) for a in done[0]] == [
        (b.text, b.token_ids, b.stop_reason, b.logprobs) for b in done[1]
    ]
    assert {one.stop_reason for one in done[0]} & {"dabd", "cabc"}


@pytest.mark.parametrize(
    ("sampling", "top"), [({"temperature": 0.0}, 1), ({"temperature": 1.0, "top_k": 20, "top_p": 0.9}, 20)]
)
@pytest.mark.parametrize("draft", [False, True])
def test_the_largest_logits_of_what_is_allowed_are_enough(sampling: dict, top: int, draft: bool) -> None:
    decoder = fake_decoder()
    batches: list[Batch] = []
    step = decoder.step

    def noting(batch):
        batches.append(batch)
        return step(batch)

    decoder.step = noting
    # Of these digits alone there are fewer than 20.
    asked = {"regex": "([01]{3}[a-z ]{6}){6}", "seed": 5, "draft": draft, **sampling}
    with fake_model(decoder, speculator=AdaptiveSpeculator()) as model:
        done = model.generate("The area", n=2, **asked)
        told = [batch for batch in batches if len(batch.logits)]
        batches.clear()
        whole = model.generate("The area", n=2, **asked, logprobs=1)
    assert [one.token_ids for one in done] == [one.token_ids for one in whole]
    assert {batch.top for batch in batches if len(batch.logits)} == {0}
    assert {batch.top for batch in told} == {top}
    assert all(len(batch.allowed) == len(batch.logits) for batch in told)
    counts = {int(np.unpackbits(bits).sum()) for batch in told for bits in batch.allowed if bits is not None}
    assert min(counts) < 20 < max(counts)
    if draft:
        assert any(len(batch.logits) > 2 for batch in told)


def test_a_grammar_that_fails_ends_its_own_request_only() -> None:
    """What may follow is asked for before the step, which others share."""
    with fake_model() as model:
        free = model.generate("The area", max_tokens=30, seed=1, temperature=0.0)
        started = model.generate("The area", max_tokens=30, seed=1, temperature=0.0, stream=True)
        next(started)
        failing = Matcher.ahead
        calls: list[int] = []

        def ahead(self: Matcher) -> list[Allowed]:
            calls.append(1)
            if len(calls) == 3:
                raise InvalidRequestError("the grammar is too slow to follow")
            return failing(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Matcher, "ahead", ahead)
            with pytest.raises(InvalidRequestError, match="too slow"):
                model.generate("The area", regex="[0-9]{40}", temperature=0.0)
        *_, last = started
    assert len(calls) == 3 and last.completion is not None
    assert last.completion.token_ids == free.token_ids
