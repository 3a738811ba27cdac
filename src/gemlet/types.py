"""Frozen values that cross folders. Fields keep the names of the field's standard APIs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True)
class ToolCall:
    """A call the model asks for. `arguments` is JSON text, as in the OpenAI API."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a call in a streamed answer. The first one of a call has its id and name, and no arguments.

    `index` is the call's place among the answer's calls; the `arguments` of all its pieces belong together.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the one home of the neutral values.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1, `min_p` 0 and the penalties' neutral values switch a step
    off. A model's own defaults are another value of this class, read from its files.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The pieces of a tokenizer, in id order, as a GGUF file lists them.

    `text` is uint8, all pieces joined; piece i is text[ends[i-1]:ends[i]]. One entry per piece each: `ends`
    int64, `scores` float32, `types` int32 (1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte).
    Of a byte-level BPE, `merges` and `merge_ends` hold its merges in the same way, two pieces and a space
    between them each, the first to be applied first; scores are then without meaning.
    """

    text: np.ndarray
    ends: np.ndarray
    scores: np.ndarray
    types: np.ndarray
    merges: np.ndarray | None = None
    merge_ends: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def piece(self, id: int) -> bytes:
        """One piece as the file holds it."""
        start = int(self.ends[id - 1]) if id else 0
        return self.text[start : int(self.ends[id])].tobytes()

    def pieces(self) -> list[bytes]:
        """Every piece as the file holds it (UTF-8; user-defined runs of spaces are literal spaces)."""
        return _parts(self.text, self.ends)

    def merge_list(self) -> list[bytes]:
        """Every merge as the file holds it; empty without."""
        if self.merges is None or self.merge_ends is None:
            return []
        return _parts(self.merges, self.merge_ends)


def _parts(text: np.ndarray, ends: np.ndarray) -> list[bytes]:
    joined, places = text.tobytes(), ends.tolist()
    return [joined[start:end] for start, end in zip([0, *places], places, strict=False)]


@dataclass(frozen=True, eq=False)
class TokenizerSource:
    """Where a model's tokenizer comes from: a file of its own, or the vocabulary inside a GGUF file.

    `path` is the file to read: tokenizer.model, tokenizer.json, or the GGUF file, whose pieces are in
    `vocabulary`. `sha256` identifies the tokenizer: of the file, or of the vocabulary and the flags.
    `add_space_prefix` is None where the file itself says it; an id is None where the source does not name it.
    `pre` is what a GGUF file calls the way in which a byte-level BPE cuts text into words, `add_bos` whether
    text is to begin with a BOS; None leaves it to the tokenizer's kind. `rows`: of the embedding, which may
    be more than there are pieces.
    """

    kind: Literal["sentencepiece", "tokenizer-json", "gguf"]
    path: str
    sha256: str
    bos_id: int
    unknown_id: int | None = None
    pad_id: int | None = None
    add_space_prefix: bool | None = None
    vocabulary: Vocabulary | None = None
    algorithm: Literal["sentencepiece", "byte-bpe"] = "sentencepiece"
    pre: str | None = None
    add_bos: bool | None = None
    rows: int | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its log-probability (log-softmax of the unmodified logits), and the likeliest alternatives."""

    token: str
    token_id: int
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Token counts of a request; `cached_tokens` is the part of the prompt that was not computed again."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Timings:
    """Where a request's time went. Seconds and tokens per second; None where it does not apply."""

    queue_s: float
    prefill_s: float
    decode_s: float
    ttft_s: float | None
    prefill_tokens_per_s: float | None
    decode_tokens_per_s: float | None
    draft_acceptance: float | None = None
    cache_miss_reason: str | None = None


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter that an open model has at hand. `modules`: the kinds of matrices that it adds to.

    `rank` is the largest, `nbytes` its size in memory, `notices` what a person should be told.
    """

    name: str
    path: str
    sha256: str
    rank: int
    modules: tuple[str, ...]
    parameters: int
    nbytes: int
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What reproduces a result: hashes of the files, types, instruction set, version."""

    model: str
    weights_sha256: str
    tokenizer_sha256: str
    template_sha256: str | None
    adapter_sha256: str | None
    weights_type: str
    activation_type: str
    kv_type: str
    embedding_scale: float
    instruction_set: str
    engine_version: str


@dataclass(frozen=True)
class Completion:
    """A finished answer. `text` is what is not a call; after `tool_calls` was "stop" its reason is theirs."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: str | int | None
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...] | None
    seed: int
    sampling: Sampling
    usage: Usage
    timings: Timings
    normalisations: tuple[str, ...]
    manifest: Manifest


@dataclass(frozen=True)
class TokenEvent:
    """One token of a streamed answer. `text` may be empty while a character is incomplete.

    `index` is the choice (0 to n-1); `completion` is set on the last event of a choice. `top` holds the
    likeliest tokens where log-probabilities were asked for, `tool_calls` the pieces of calls that the token
    made certain.
    """

    text: str
    token_id: int | None
    logprob: float | None
    index: int = 0
    completion: Completion | None = None
    top: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()


@dataclass(frozen=True)
class Score:
    """Log-probability of a continuation: its sum, and token by token."""

    logprob: float
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    is_greedy: bool


def as_dict(value: Any) -> Any:
    """The same value as plain JSON-ready containers, with the same names."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_dict(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): as_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_dict(item) for item in value]
    return value
