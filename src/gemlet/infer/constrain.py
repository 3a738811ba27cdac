"""Answers that keep to a grammar: which tokens may come next, by the llguidance library.

A `Constraint` is compiled once and given to a request; each choice has its own `Matcher`, which follows the
tokens and says after each which may come next. Only tokens that are text can be part of a shape; a stop id
is allowed exactly where the text so far is complete. What is allowed depends on the grammar and the tokens
alone, so an answer is the same whatever surrounds it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import GemletError, InvalidRequestError, MissingExtraError, UnsupportedParameterError
from gemlet.infer.response_format import Shape
from gemlet.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

Ids = NDArray[np.int64]

KEPT = 16
"""Compiled constraints that an open model remembers."""

LIMITS = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,  # some 20 ms
    "step_lexer_fuel": 200_000,  # some 14 ms a token
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,  # 1 to 2 KiB each
    "max_grammar_size": 100_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
"""What compiling and following a grammar may cost; beyond it a request fails instead of holding up others."""

SECONDS = 2.0
"""A token's mask may take this long; milliseconds are usual."""

JSON_OPTIONS = {"item_separator": ",", "key_separator": ":", "whitespace_flexible": False, "lenient": False}
"""JSON without white space between its parts, of which a model could write for ever."""


class Vocabulary:
    """A tokenizer as llguidance takes it. Making one takes one to two seconds and some 60 MB."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        library = _library()
        size = tokenizer.vocab_size
        control = np.fromiter((tokenizer.is_control(i) for i in range(size)), np.bool_, size)
        # 0xFF alone is no text either, and llguidance reads it as the mark of a control token.
        pieces = [b"" if control[i] else tokenizer.piece(i) for i in range(size)]
        pieces = [b"" if piece == b"\xff" else piece for piece in pieces]
        self.end_id = stop_ids[0] if stop_ids else tokenizer.bos_id
        self.control = control
        self.text_bits = np.packbits(~control, bitorder="little")
        wrapper = library.TokenizerWrapper(_Source(tokenizer, pieces, self.end_id))
        self.tokenizer = library.LLTokenizer(wrapper, eos_token=[self.end_id])


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


class Constraint:
    """A compiled shape. Safe to use from several threads; choices start with `matcher`."""

    def __init__(
        self, vocabulary: Vocabulary, compiled: llguidance.LLMatcher, pool: ThreadPoolExecutor
    ) -> None:
        self._vocabulary = vocabulary
        self._compiled = compiled
        self._pool = pool
        self._lock = threading.Lock()

    def matcher(self, stop_ids: Iterable[int]) -> Matcher:
        """A matcher before its first token. `stop_ids`: those of the request."""
        with self._lock:
            copy = self._compiled.deep_copy()
        return Matcher(self._vocabulary, copy, self._pool, stop_ids)


class Matcher:
    """Follows the tokens of one choice.

    A stop id that is a control token is allowed where the text is complete, and only there. One that is text
    is text to the grammar. Without any (`ignore_eos`) the answer goes on as long as it can.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        matcher: llguidance.LLMatcher,
        pool: ThreadPoolExecutor,
        stop_ids: Iterable[int],
    ) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._pool = pool
        self._ends = [id for id in stop_ids if vocabulary.control[id]]
        self._job: Future[list[Ids]] | None = None
        self._ahead: deque[Ids] = deque()  # what may come next, after each token of a draft in turn

    def prepare(self, draft: Sequence[int] = ()) -> None:
        """Find out, in another thread, what may come next and behind each token of a draft."""
        self._ahead.clear()
        self._job = self._pool.submit(self._look_ahead, list(draft))

    def allowed(self) -> Ids:
        """The ids that may come next, ascending, at least one. InvalidRequestError where there is none."""
        if self._job is None and not self._ahead:
            self.prepare()
        if self._job is not None:
            try:
                self._ahead.extend(self._job.result(SECONDS))
            except NotInTime:  # the thread ends by itself, within LIMITS
                raise InvalidRequestError(
                    "the grammar is too slow to follow", hint="make it simpler"
                ) from None
            self._job = None
        return self._ahead[0]

    def accept(self, token: int) -> bool:
        """Take an allowed token; whether the answer ends with it, since nothing can follow."""
        if self._ahead:
            self._ahead.popleft()
        if self._vocabulary.control[token]:
            return True
        if not self._matcher.consume_token(token):
            raise self._failure()
        return self._matcher.is_stopped()

    def fitting(self, draft: Sequence[int]) -> int:
        """How many tokens of a draft, from its first on, the grammar takes."""
        control = self._vocabulary.control
        text = next((i for i, token in enumerate(draft) if control[token]), len(draft))
        return self._matcher.validate_tokens(list(draft[:text])) if text else 0

    def forced(self) -> list[int]:
        """Tokens that spell what must come next: the likeliest way to write it, though not the only one."""
        return self._matcher.compute_ff_tokens()

    def _look_ahead(self, draft: list[int]) -> list[Ids]:
        found = [self._next()]
        taken = 0
        for token in draft[: self.fitting(draft)]:
            if not self._matcher.consume_token(token):
                raise self._failure()
            taken += 1
            if self._matcher.is_stopped():
                break  # the answer ends here
            found.append(self._next())
        if taken and not self._matcher.rollback(taken):
            raise self._failure()
        return found

    def _next(self) -> Ids:
        bits: NDArray[np.uint8] = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise self._failure()
        vocabulary = self._vocabulary
        end = vocabulary.end_id
        complete = bool(bits[end >> 3] >> (end & 7) & 1)
        size = len(vocabulary.text_bits)
        bits = bits[:size] & vocabulary.text_bits
        if complete:
            for id in self._ends or ([] if bits.any() else [end]):
                bits[id >> 3] |= 1 << (id & 7)
        ids = np.flatnonzero(np.unpackbits(bits, count=len(vocabulary.control), bitorder="little"))
        if not len(ids):
            hint = "it may ask for a control token, which is never text"
            raise InvalidRequestError("the grammar allows no token at this point of the answer", hint=hint)
        return ids

    def _failure(self) -> GemletError:
        reason = self._matcher.get_error().partition("\n")[0][:300]
        return InvalidRequestError(f"the grammar cannot be followed any further: {reason}")


class Constraints:
    """The constraints of an open model, compiled when they are asked for and remembered."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._lock = threading.Lock()  # of what follows; one shape is compiled at a time
        self._vocabulary: Vocabulary | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._known: OrderedDict[Shape, Constraint] = OrderedDict()

    def compile(self, shape: Shape) -> Constraint:
        """The constraint of a shape.

        Raises MissingExtraError without llguidance, InvalidRequestError or UnsupportedParameterError for a
        shape that it cannot enforce, or not within LIMITS.
        """
        library = _library()
        with self._lock:
            known = self._known.get(shape)
            if known is not None:
                self._known.move_to_end(shape)
                return known
            if self._vocabulary is None or self._pool is None:
                self._vocabulary = Vocabulary(self._tokenizer, self._stop_ids)
                self._pool = ThreadPoolExecutor(2, thread_name_prefix="gemlet-constrain")
            compiled = _compiled(library, self._vocabulary, shape)
            constraint = self._known[shape] = Constraint(self._vocabulary, compiled, self._pool)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            return constraint


def _compiled(library: Any, vocabulary: Vocabulary, shape: Shape) -> llguidance.LLMatcher:
    try:
        if shape.kind == "schema":
            grammar = library.LLMatcher.grammar_from_json_schema(shape.text, overrides=JSON_OPTIONS)
        elif shape.kind == "regex":
            grammar = library.LLMatcher.grammar_from_regex(shape.text)
        else:
            grammar = library.LLMatcher.grammar_from_lark(shape.text)
    except ValueError as error:
        raise InvalidRequestError(f"{shape.parameter}: {error}") from None
    limits = library.LLParserLimits(**LIMITS)
    matcher = library.LLMatcher(vocabulary.tokenizer, grammar, log_level=0, limits=limits)
    problem = matcher.get_error() or "; ".join(matcher.get_grammar_warnings())
    if problem:
        message = f"{shape.parameter} cannot be enforced: {' '.join(problem.split())[:400]}"
        raise UnsupportedParameterError(shape.parameter, message)
    compiled: llguidance.LLMatcher = matcher
    return compiled


def _library() -> Any:
    """llguidance, imported when an answer is to be constrained."""
    try:
        import llguidance
    except ImportError:
        raise MissingExtraError("a constrained answer", "structured") from None
    return llguidance
