"""Shapes that are wrong, hostile or slow: refused by name, or only their own request fails."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from gemlet.errors import InvalidRequestError, ModelClosedError, UnsupportedParameterError
from gemlet.infer import constrain, matcher
from gemlet.infer.call_shape import call_shape
from gemlet.infer.chat import Model
from gemlet.infer.constrain import Constraint, Constraints
from gemlet.infer.matcher import Matcher
from gemlet.infer.response_format import Shape, shape_of
from gemlet.infer.speculate import AdaptiveSpeculator
from gemlet.infer.spelling import Spelling, State
from gemlet.text.tools import read_tool_use
from tests.infer.fake_model import fake_model
from tests.repo.sources import ROOT

OBJECT = {"type": "json_object"}


def asked(schema: object) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.fixture
def model() -> Iterator[Model]:
    with fake_model(speculator=AdaptiveSpeculator()) as model:
        yield model


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"regex": "(a"}, "regex: unclosed group"),
        ({"regex": "[z-a]"}, "regex: .*range"),
        ({"regex": r"\q"}, "regex: unrecognized escape"),
        ({"grammar": "start: x"}, "grammar: .*unknown name"),
        ({"grammar": 'first: "a"'}, "grammar: .*start"),
        ({"grammar": "start: /(a/"}, "grammar: unclosed group"),
        ({"grammar": "start: a\na: b\nb: a"}, "grammar: .*"),
        ({"grammar": "start: %json {"}, "grammar: %json"),
        ({"grammar": 'start: %json "a"'}, "must be an object"),
        ({"response_format": asked({"enum": []})}, "response_format: Unsatisfiable"),
        ({"response_format": asked({"type": "word"})}, "response_format: Invalid type"),
        ({"response_format": asked({"minimum": "3"})}, "#/minimum"),
        ({"response_format": asked({"minProperties": "3"})}, "#/minProperties"),
        ({"response_format": asked({"$ref": "#/examples/0", "examples": [{}]})}, "#/examples/0"),
        ({"response_format": asked({"$ref": "#/$defs/none"})}, "#/\\$defs/none"),
    ],
)
def test_what_is_wrong_is_said_and_is_no_missing_feature(model: Model, options: dict, named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named) as caught:
        model.generate("x", **options)
    assert not isinstance(caught.value, UnsupportedParameterError)


@pytest.mark.parametrize(
    ("options", "parameter", "named"),
    [
        ({"regex": "(?=a)b"}, "regex", "look-around"),
        ({"regex": r"(a)\1"}, "regex", "backreferences"),
        ({"regex": r"a\b"}, "regex", "lookarounds"),
        ({"grammar": "start: <tool>"}, "grammar", "special token"),
        ({"grammar": "start: x\nx[temperature=0.3]: /a/"}, "grammar", "temperature"),
        ({"grammar": '%llguidance {"no_forcing": true}\nstart: "a"'}, "grammar", "%llguidance"),
        ({"grammar": 'start: %json {"type":"array","uniqueItems":true}'}, "grammar", "uniqueItems"),
        ({"grammar": 'start: %json{"x-guidance":{"lenient":true}}'}, "grammar", "x-guidance"),
        ({"grammar": 'start: %json {"properties":{"a":{}}}'}, "grammar", "additionalProperties to false"),
        ({"response_format": asked({"type": "string", "format": "iri"})}, "response_format", "iri"),
        ({"response_format": asked({"format": "unknown"})}, "response_format", "unknown"),
        ({"response_format": asked({"multipleOf": 1e-7})}, "response_format", "multiples"),
    ],
)
def test_what_cannot_be_enforced_is_refused_under_its_parameter(
    model: Model, options: dict, parameter: str, named: str
) -> None:
    with pytest.raises(UnsupportedParameterError, match=named) as caught:
        model.generate("x", **options)
    assert caught.value.parameter == parameter


def test_json_in_a_grammar_is_compact_and_checked(model: Model) -> None:
    grammar = 'start: "A:" %json { "enum": [ {"a": [1, 2]}, ["%json"] ] } "."'
    for done in model.generate("x", grammar=grammar, n=6):
        assert done.text in ('A:{"a":[1,2]}.', 'A:["%json"].')


def tool(schema: dict, **choice: object) -> object:
    functions = [{"type": "function", "function": {"name": "look", "parameters": schema}}]
    use = read_tool_use(functions, choice.get("choice"), None)
    assert use is not None
    return call_shape(use, shape_of(choice.get("form"), None, None))


def test_a_tool_whose_schema_cannot_be_enforced_is_refused_by_name_and_place() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(
        UnsupportedParameterError, match=r"function look: .*#/properties/a: .*uniqueItems"
    ) as e:
        tool(schema)
    assert e.value.parameter == "tools"
    with pytest.raises(InvalidRequestError, match=r"function look: .*#/properties/a/maxLength"):
        tool({"type": "object", "properties": {"a": {"maxLength": -1}}})


def test_a_spelling_with_escapes_is_found_across_tokens() -> None:
    pieces = [
        b"\\",
        b"u",
        b"/",
        b"a",
        b"\\u",
        b"\\\\",
        b"\\\\u",
        b'\\"',
        b"a\\",
        b"u\\",
        b"\\\\\\",
        b"/a",
        b":{",
        b"x:",
    ]
    spelling, rng = Spelling(pieces), random.Random(1)
    for begin in (b"", b":{", b"x:{"):
        for _ in range(300):
            state: State = b"" if begin else False
            text = b""
            for _ in range(8):
                token = rng.randrange(len(pieces))
                bits = spelling.allowed(state)
                allowed = bits is None or bool(bits[token >> 3] >> (token & 7) & 1)
                json_text = (text + pieces[token]).partition(begin)[2] if begin else text + pieces[token]
                begun = not begin or begin in text
                assert allowed == (not begun or re.search(rb"(?<!\\)(\\\\)*\\[u/]", json_text) is None)
                if allowed:
                    state, text = spelling.after(state, token, begin), text + pieces[token]


@pytest.mark.parametrize(("choice", "form"), [("required", None), ("auto", None), ("auto", OBJECT)])
def test_no_key_can_pass_for_another_one(model: Model, choice: str, form: dict | None) -> None:
    """The grammar alone would take this key, which a reader finds to be the declared one."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": True}
    begin = '{"name":"look","parameters":'
    shapes = [(tool(schema, choice=choice, form=form), begin)]
    shapes.append((shape_of(asked(schema), None, None), ""))
    for shape, before in shapes:
        following = model._constraints.compile(shape).matcher(())
        tokens = model.tokenize(before + '{"\\', bos=False)
        for token in tokens:
            assert token in following.allowed().ids
            following.accept(token)
        (u,) = model.tokenize("xu", bos=False)[-1:]
        assert following._matcher.validate_tokens([u]) == 1
        assert u not in following.allowed().ids


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ('^[^"]*$', 'a"', False),
        (r'^[^"\\]*$', "a\\", False),
        (r"^[^\n]*$", "a\\", True),
        (r"^[^\n]*$", "\n", False),
        (r"^[\s\S]$", '"', True),
        (r"^\p{L}+$", "é", True),
        ("^[[:alpha:]]$", "a", True),
    ],
)
def test_what_a_class_leaves_out_is_left_out(model: Model, pattern: str, text: str, matches: bool) -> None:
    """The compiler alone takes a class with all control characters for one with the quotation mark."""
    shape = shape_of(asked({"type": "string", "pattern": pattern}), None, None)
    assert shape is not None
    following = model._constraints.compile(shape).matcher(())
    tokens = model.tokenize(json.dumps(text, ensure_ascii=False), bos=False)
    assert (following._matcher.validate_tokens(tokens) == len(tokens)) == matches


@pytest.mark.parametrize(
    "pattern", [r"\P{L}", r"[\x00-a]", r"\p{Cc}", r"\pC", "[[:^alpha:]]", r"[\W--a]", "[a[^b]]", "[\0-a]"]
)
def test_patterns_that_could_hold_all_control_characters_are_refused(model: Model, pattern: str) -> None:
    for schema in ({"type": "string", "pattern": pattern}, {"patternProperties": {pattern: {}}}):
        with pytest.raises(UnsupportedParameterError, match="the pattern"):
            shape_of(asked(schema), None, None)


def test_what_is_no_json_may_hold_a_backslash_and_a_u(model: Model) -> None:
    assert model.generate("x", regex=r"\\u[0-9]{4}").text.startswith("\\u")


SLOW = "(slow)+"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Looking for what may follow "s" waits for this event."""
    gate, look = threading.Event(), Matcher.look_ahead

    def held(self: Matcher, draft: list[int]) -> object:
        if self._waits:  # type: ignore[attr-defined]
            gate.wait(20)
        return look(self, draft)

    def prepare(self: Matcher, draft: object = ()) -> None:
        self._waits = bool(self._taken) and self._alone.__self__._shape.text == SLOW  # type: ignore[attr-defined]
        original(self, draft)

    original = Matcher.prepare
    monkeypatch.setattr(Matcher, "look_ahead", held)
    monkeypatch.setattr(Matcher, "prepare", prepare)
    yield gate
    gate.set()


def test_a_grammar_that_hangs_fails_alone(
    model: Model, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when it holds every thread that works masks out."""
    monkeypatch.setattr(matcher, "LOOKS", 3)
    monkeypatch.setattr(matcher, "LOOK_SECONDS", 0.02)
    expected = model.generate("y", regex="[ab]{20}", seed=3)
    hanging = [model.generate("x", regex=SLOW, stream=True) for _ in range(matcher.THREADS + 1)]
    others = [model.generate("y", regex="[ab]{20}", seed=3, stream=True) for _ in range(3)]
    for stream in hanging:
        with pytest.raises(InvalidRequestError, match="too slow"):
            list(stream)
    for stream in others:
        list(stream)
        assert stream.completions[0].text == expected.text
    assert model.generate("y", regex="[ab]{20}", seed=3).text == expected.text


def test_closing_while_a_mask_is_worked_out(gate: threading.Event) -> None:
    model = fake_model()
    stream = model.generate("x", regex=SLOW, stream=True)
    next(stream)
    threading.Timer(0.1, gate.set).start()
    model.close()
    list(stream)
    assert stream.completions[0].finish_reason == "cancelled"
    with pytest.raises(ModelClosedError):
        model.generate("x", regex=SLOW)


def test_the_time_of_an_answer_is_bounded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matcher, "SECONDS", 0.0)
    monkeypatch.setattr(matcher, "SECONDS_A_TOKEN", 0.0)
    plain = model.generate("y", seed=3, stream=True)
    with pytest.raises(InvalidRequestError, match="too slow"):
        model.generate("x", regex="[ab]{20}", temperature=0)
    list(plain)
    assert plain.completions[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize("seed", range(4))
def test_a_grammar_that_fails_late_fails_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with the same tokens before; drafts may let it come a few tokens further (decision 0007)."""
    monkeypatch.setitem(constrain.LIMITS, "max_lexer_states", 150)
    reached = []
    for speculator in (None, AdaptiveSpeculator()):
        with fake_model(speculator=speculator) as model:
            late = model.generate("x", regex="(a|b)*a(a|b){12}", seed=seed, stream=True, ignore_eos=True)
            other = model.generate("y", regex="[ab]{20}", seed=3, stream=True)
            begun = []
            with pytest.raises(InvalidRequestError, match="cannot be followed any further"):
                for event in late:
                    begun.append(event.token_id)
            reached.append(begun)
            list(other)
            assert other.completions[0].finish_reason == "stop"
    shorter, longer = sorted(reached, key=len)
    assert shorter and longer[: len(shorter)] == shorter


def test_cancelled_and_cut_in_mid_answer(model: Model) -> None:
    with model.generate("x", response_format=OBJECT, stream=True) as stream:
        next(stream)
    done = model.generate("x", response_format=OBJECT, max_tokens=2)
    assert done.finish_reason == "length" and len(done.token_ids) == 2

    async def read() -> list[str]:
        async with model.agenerate("x", regex="[ab]{3}", stream=True) as stream:
            return [event.text async for event in stream]

    assert len("".join(asyncio.run(read()))) == 3


def test_compiling_blocks_no_event_loop_and_no_other_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on neither the loop's thread nor the engine's."""
    threads: list[str] = []
    compile = Constraints.compile

    def noted(self: Constraints, shape: Shape) -> Constraint:
        threads.append(threading.current_thread().name)
        return compile(self, shape)

    monkeypatch.setattr(Constraints, "compile", noted)
    with fake_model() as model:

        async def ask() -> None:
            await model.agenerate("x", regex="[ab]{3}")

        asyncio.run(ask())
        model.generate("x", regex="[ab]{4}")
    assert threads[0] != threading.main_thread().name and threads[0].startswith("asyncio")
    assert threads[1] == threading.main_thread().name


@pytest.mark.parametrize(
    "grammar",
    [
        "start: /a+/ start",
        'start: "b"* start{3000} | "b"',
        "start: r\\nr: /(a*)+/{2,50} r?",
        'start: "a" start',
    ],
)
def test_a_grammar_without_an_end_holds_nobody_up(grammar: str) -> None:
    """In a process of its own, which can be ended: the compiler would write out what must come, for ever."""
    code = (
        "from tests.infer.fake_model import fake_model\n"
        "from gemlet.infer.speculate import AdaptiveSpeculator\n"
        "with fake_model(speculator=AdaptiveSpeculator()) as model:\n"
        f"    done = model.generate('x', grammar='{grammar}', max_tokens=30)\n"
        "assert set(done.text) <= set('ab')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)
