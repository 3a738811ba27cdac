"""Answers that keep to a grammar: shapes compiled by the llguidance library, for any number of requests.

A `Constraint` is given to a request; each choice follows it with its own `Matcher`. Only tokens that are text
can be part of a shape; a stop id is allowed exactly where the text so far is complete. What is allowed
depends on the grammar and the tokens alone, so an answer is the same whatever surrounds it.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gemlet.errors import InvalidRequestError, MissingExtraError, UnsupportedParameterError
from gemlet.infer.json_schema import LAYOUT
from gemlet.infer.matcher import Jobs, Matcher, Vocabulary
from gemlet.infer.response_format import Shape
from gemlet.infer.spelling import Spelling
from gemlet.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

KEPT = 16
"""Compiled constraints that an open model remembers."""

LIMITS = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,  # some 20 ms
    "step_lexer_fuel": 200_000,  # some 14 ms a token
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,  # 1 to 2 KiB each, of all answers of a shape together
    "max_grammar_size": 100_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
"""What compiling and following a grammar may cost; beyond it a request fails instead of holding up others."""

_WRONG = re.compile(r"Unsatisfiable|Invalid type|does not exist|regex parse error|invalid multiple")
_UNKNOWN = re.compile(r"not supported|[Uu]nsupported|only supported|Unimplemented|special token")


class _Source:
    """The names that llguidance's wrapper looks for."""

    special_token_ids: Sequence[int] = ()

    def __init__(self, tokenizer: Tokenizer, pieces: Sequence[bytes], end_id: int) -> None:
        self.tokens = pieces
        self.eos_token_id = end_id
        self.bos_token_id = tokenizer.bos_id
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode())


def read_vocabulary(tokenizer: Tokenizer, stop_ids: Sequence[int]) -> Vocabulary:
    """A tokenizer as llguidance takes it. This takes one to two seconds and some 60 MB."""
    library = _library()
    size = tokenizer.vocab_size
    control = np.fromiter((tokenizer.is_control(i) for i in range(size)), np.bool_, size)
    # 0xFF alone is no text either, and llguidance reads it as the mark of a control token.
    pieces = [b"" if control[i] else tokenizer.piece(i) for i in range(size)]
    pieces = [b"" if piece == b"\xff" else piece for piece in pieces]
    end_id = stop_ids[0] if stop_ids else tokenizer.bos_id
    wrapper = library.TokenizerWrapper(_Source(tokenizer, pieces, end_id))
    spelling = Spelling(pieces)
    return Vocabulary(library.LLTokenizer(wrapper, eos_token=[end_id]), control, end_id, spelling)


class Constraint:
    """A compiled shape. Safe to use from several threads; choices start with `matcher`.

    `first`: the mask before the first token, the same for everybody.
    """

    def __init__(
        self, vocabulary: Vocabulary, shape: Shape, compiled: llguidance.LLMatcher, first: bytes, jobs: Jobs
    ) -> None:
        self._vocabulary = vocabulary
        self._shape = shape
        self._compiled: llguidance.LLMatcher | None = compiled
        self._first = first
        self._jobs = jobs
        self._lock = threading.Lock()

    def matcher(self, stop_ids: Iterable[int]) -> Matcher:
        """A matcher before its first token. `stop_ids`: those of the request."""
        shape = self._shape
        behind = "" if shape.kind == "schema" else shape.json_behind
        return Matcher(self._vocabulary, self.shared, self.alone, self._first, self._jobs, stop_ids, behind)

    def shared(self) -> llguidance.LLMatcher:
        """Shares with others what it finds out, and the limit for it."""
        with self._lock:
            if self._compiled is None:
                self._compiled = self._compile()
            return self._compiled.deep_copy()

    def alone(self) -> llguidance.LLMatcher:
        """Shares nothing, after a limit was reached. Whoever comes next begins anew too."""
        with self._lock:
            self._compiled = None
        return self._compile()

    def _compile(self) -> llguidance.LLMatcher:
        return _compiled(_library(), self._vocabulary, self._shape)


class Constraints:
    """The constraints of an open model, compiled when they are asked for and remembered.

    Compiling runs on the thread that asks, never on the engine's.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._lock = threading.Lock()  # of what follows; one shape is compiled at a time
        self._vocabulary: Vocabulary | None = None
        self._jobs = Jobs()
        self._known: OrderedDict[Shape, Constraint] = OrderedDict()

    def compile(self, shape: Shape) -> Constraint:
        """The constraint of a shape.

        Raises MissingExtraError without llguidance, InvalidRequestError for a shape that is wrong or that
        takes more than LIMITS, UnsupportedParameterError for one that cannot be enforced.
        """
        library = _library()
        with self._lock:
            known = self._known.get(shape)
            if known is not None:
                self._known.move_to_end(shape)
                return known
            if self._vocabulary is None:
                self._vocabulary = read_vocabulary(self._tokenizer, self._stop_ids)
            compiled = _compiled(library, self._vocabulary, shape)
            first = compiled.compute_bitmask()
            _check(compiled, shape)
            constraint = Constraint(self._vocabulary, shape, compiled, first, self._jobs)
            self._known[shape] = constraint
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            return constraint


def _compiled(library: Any, vocabulary: Vocabulary, shape: Shape) -> llguidance.LLMatcher:
    try:
        if shape.kind == "schema":
            grammar = library.LLMatcher.grammar_from_json_schema(shape.text, overrides=LAYOUT)
        elif shape.kind == "regex":
            grammar = library.LLMatcher.grammar_from_regex(shape.text)
        else:
            grammar = library.LLMatcher.grammar_from_lark(shape.text)
    except ValueError as error:
        raise InvalidRequestError(f"{shape.parameter}: {error}") from None
    limits = library.LLParserLimits(**LIMITS)
    matcher: llguidance.LLMatcher = library.LLMatcher(
        vocabulary.tokenizer, grammar, log_level=0, limits=limits
    )
    _check(matcher, shape)
    return matcher


def _check(matcher: llguidance.LLMatcher, shape: Shape) -> None:
    """Raise what the compiler found."""
    problem = matcher.get_error()
    warnings = "; ".join(matcher.get_grammar_warnings())
    if not problem and not warnings:
        return
    said = _said(problem or warnings, shape)
    wrong = _WRONG.search(problem) is not None if shape.kind == "schema" else not warnings
    if wrong and _UNKNOWN.search(problem) is None:
        raise InvalidRequestError(f"{shape.parameter}: {said}")
    raise UnsupportedParameterError(shape.parameter, f"{shape.parameter} cannot be enforced: {said}")


def _said(problem: str, shape: Shape) -> str:
    """The compiler's words, without its picture of the place in what it made of a regex."""
    if (parse := re.search(r"^error: (.+)", problem, re.MULTILINE)) is not None:
        return f"{parse[1]}, in {shape.text if shape.kind == 'regex' else problem:.200}"
    if shape.kind == "regex":
        problem = re.sub(r"^at \S+ ", "", problem.partition("\n")[0]).replace(" (in regex)", "")
    return " ".join(problem.split())[:400]


def _library() -> Any:
    """llguidance, imported when an answer is to be constrained."""
    try:
        import llguidance
    except ImportError:
        raise MissingExtraError("a constrained answer", "structured") from None
    return llguidance
