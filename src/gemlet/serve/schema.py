"""What requests may hold: every field of the OpenAI API, enforced, without effect, or refused by name.

What a field does is said once, in its description: the documentation and the OpenAPI document show it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

NO_EFFECT = "Accepted, without effect: "
REFUSED = "Refused unless null: "
REFUSAL = "refused"
"""The type of a validator's error for what is known and cannot be done."""

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_INPUTS = 2048


class Strict(BaseModel):
    """Unknown fields, wrong types and numbers that are none are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _say_why(cls, value: Any, info: ValidationInfo) -> Any:
        """What is refused is refused for the reason that its description gives."""
        said = cls.model_fields[str(info.field_name)].description or ""
        if said.startswith(REFUSED) and value is not None:
            raise _refusal(said.removeprefix(REFUSED))
        return value


class StreamOptions(Strict):
    """How a stream ends."""

    include_usage: bool | None = Field(None, description="A last chunk tells the token counts.")
    include_obfuscation: bool | None = Field(None, description=NO_EFFECT + "chunks are not padded.")


def _refusal(reason: str) -> PydanticCustomError:
    return PydanticCustomError(REFUSAL, "not supported: {reason}", {"reason": reason.rstrip(".")})


def _is_off(value: bool) -> bool:
    if value:
        raise _refusal("only false is")
    return value


Off = Annotated[bool, AfterValidator(_is_off), WithJsonSchema({"type": "boolean", "const": False})]
"""Only false: a Literal would take 0 for it."""

Stop = str | Annotated[list[str], Field(max_length=MAX_STOPS)]
Bias = dict[str, float]


class Generation(Strict):
    """What all endpoints that generate have in common."""

    model: str = Field(description="A served model, or a hosted model's name, which the first one answers.")
    temperature: float | None = Field(None, ge=0, description="0 takes the likeliest token.")
    top_p: float | None = Field(None, ge=0, le=1, description="Share of the probability that is drawn from.")
    top_k: int | None = Field(None, ge=0, description="Extension: how many tokens are drawn from; 0: all.")
    min_p: float | None = Field(None, ge=0, le=1, description="Extension: least share of the likeliest's.")
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=100, description="Extension: above 1, tokens of prompt and answer come less often."
    )
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Subtracted once from used tokens.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="Subtracted for every use.")
    logit_bias: Bias | None = Field(None, description="Token ids and what is added to their logits.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="Repeats an answer, to the last bit.")
    stop: Stop | None = Field(None, description="Texts that end the answer; they are not a part of it.")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="Answers to the same prompt.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of an answer.")
    stream: bool | None = Field(None, description="Server-sent events, a token at a time.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream.")
    ignore_eos: bool | None = Field(None, description="Extension: goes on where the model would end.")
    regex: str | None = Field(None, description="Extension: an expression that the whole answer matches.")
    grammar: str | None = Field(None, description="Extension: a Lark grammar that the answer keeps to.")
    truncation: Literal["disabled", "auto"] | None = Field(
        None, description="Extension: auto leaves out the oldest part of what does not fit, and says so."
    )
    cache: bool | None = Field(
        None, description="Extension: false uses no earlier prompt's prefix and keeps none of this one."
    )
    draft: bool | None = Field(None, description="Extension: false checks no drafts. Changes no answer.")
    user: str | None = Field(None, description=NO_EFFECT + "there is nobody to tell.")

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, value: Bias | None) -> Bias | None:
        for key in value or {}:
            if not key.isascii() or not key.isdigit():
                raise ValueError(f"{key!r} is not a token id")
        return value

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for streams")
        return self

    def options(self) -> dict[str, Any]:
        """The arguments of `Model.generate` and `Model.chat` that stand for these fields."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty")
        given = {name: getattr(self, name) for name in (*names, "frequency_penalty")}
        if self.logit_bias is not None:
            given["logit_bias"] = {int(key): value for key, value in self.logit_bias.items()}
        return given | {
            "seed": self.seed,
            "stop": () if self.stop is None else self.stop,
            "n": self.n or 1,
            "ignore_eos": bool(self.ignore_eos),
            "regex": self.regex,
            "grammar": self.grammar,
            "truncation": self.truncation,
            "cache": self.cache is not False,
            "draft": self.draft is not False,
        }


class ChatRequest(Generation):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1, description="The conversation.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")
    logprobs: bool | None = Field(None, description="Log-probabilities of the answer's tokens.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="The likeliest tokens beside each; only with logprobs."
    )
    response_format: dict[str, Any] | None = Field(None, description="The form the answer must have.")
    tools: list[dict[str, Any]] | None = Field(None, description="Functions that the model may call.")
    tool_choice: str | dict[str, Any] | None = Field(None, description="Whether it must call one.")
    parallel_tool_calls: bool | None = Field(None, description="Whether an answer may hold several calls.")
    metadata: dict[str, str] | None = Field(None, description=NO_EFFECT + "nothing is stored.")
    modalities: list[Literal["text"]] | None = Field(None, description="Text is all there is.")
    store: Off | None = Field(None, description="Nothing is stored: true is refused.")
    service_tier: Literal["auto", "default"] | None = Field(None, description=NO_EFFECT + "there is one.")
    prompt_cache_key: str | None = Field(None, description=NO_EFFECT + "prefixes are found by content.")
    prompt_cache_retention: Literal["in_memory", "24h"] | None = Field(
        None, description=NO_EFFECT + "prefixes are kept while there is room."
    )
    prompt_cache_options: None = Field(None, description=REFUSED + "prefixes are kept by themselves.")
    safety_identifier: str | None = Field(None, description=NO_EFFECT + "there is nobody to tell.")
    moderation: None = Field(None, description=REFUSED + "only hosted models have it.")
    audio: None = Field(None, description=REFUSED + "the model only writes.")
    prediction: None = Field(None, description=REFUSED + "drafts are found by themselves.")
    reasoning_effort: Literal["none"] | None = Field(
        None, description=NO_EFFECT + "only `none`, the model does not reason apart."
    )
    verbosity: None = Field(None, description=REFUSED + "the model has no such setting.")
    web_search_options: None = Field(None, description=REFUSED + "nothing leaves the machine.")
    functions: None = Field(None, description=REFUSED + "use tools.")
    function_call: None = Field(None, description=REFUSED + "use tool_choice.")

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise ValueError("max_tokens and max_completion_tokens differ")
        return self

    def options(self) -> dict[str, Any]:
        # One alternative more than none: without any the engine computes no log-probabilities.
        logprobs = max(1, self.top_logprobs or 0) if self.logprobs else 0
        limit = self.max_completion_tokens or self.max_tokens
        extra = {
            "tools": self.tools,
            "tool_choice": self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": self.response_format,
        }
        return super().options() | extra | {"max_tokens": limit, "logprobs": logprobs}


One = str | list[int]


def _each(value: Any) -> Any:
    """A text, or token ids, is a list of one."""
    alone = isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int))
    each = [value] if alone else value
    if not isinstance(each, list) or not all(isinstance(one, (str, list)) for one in each):
        raise ValueError("must be text, token ids, or a list of either")
    if not all(type(token) is int for one in each if isinstance(one, list) for token in one):
        raise ValueError("token ids must be whole numbers")  # a union would say that they are no text
    return each


Prompts = Annotated[
    list[One],
    Field(min_length=1, max_length=MAX_INPUTS),
    BeforeValidator(_each, str | list[int] | list[One]),
]


class CompletionRequest(Generation):
    """`POST /v1/completions`."""

    prompt: Prompts = Field(description="Text, token ids, or a list of either.")
    max_tokens: int | None = Field(None, ge=0, description="16 by default; 0 only with echo.")
    echo: bool | None = Field(None, description="The answer begins with the prompt.")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS, description="The likeliest tokens of each.")
    best_of: int | None = Field(None, ge=1, description="Refused if it differs from n.")
    suffix: None = Field(None, description=REFUSED + "the model cannot fill a gap.")

    @model_validator(mode="after")
    def _together(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 gives nothing without echo")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of must equal n: every answer is given")
        return self

    def options(self) -> dict[str, Any]:
        limit = 16 if self.max_tokens is None else self.max_tokens
        logprobs = 0 if self.logprobs is None else max(1, self.logprobs)
        return super().options() | {"max_tokens": limit, "logprobs": logprobs}


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`."""

    model: str = Field(description="A served model.")
    input: Prompts = Field(description="Text, token ids, or a list of either.")
    encoding_format: Literal["float", "base64"] | None = Field(None, description="How numbers are written.")
    dimensions: None = Field(None, description=REFUSED + "the model has one size.")
    user: str | None = Field(None, description=NO_EFFECT + "there is nobody to tell.")


class TokenizeRequest(Strict):
    """`POST /tokenize`."""

    content: str = Field(description="The text.")
    model: str | None = Field(None, description="A served model; the first one by default.")
    add_special: bool | None = Field(None, description="Puts the BOS first.")


class DetokenizeRequest(Strict):
    """`POST /detokenize`."""

    tokens: list[int] = Field(description="Token ids.")
    model: str | None = Field(None, description="A served model; the first one by default.")


class TemplateRequest(Strict):
    """`POST /apply-template`."""

    messages: list[dict[str, Any]] = Field(min_length=1, description="The conversation.")
    model: str | None = Field(None, description="A served model; the first one by default.")
    tools: list[dict[str, Any]] | None = Field(None, description="Functions that the prompt declares.")
