"""What requests of the Responses API may hold, and the conversation that their items stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from gemlet.serve.schema import (
    MAX_TOP_LOGPROBS,
    NO_EFFECT,
    REFUSAL,
    REFUSED,
    Generation,
    Off,
    StreamOptions,
    Strict,
)

LOGPROBS = "message.output_text.logprobs"

NOT_STORED = REFUSED + "nothing is stored: send the whole conversation as input."
HOSTED = REFUSED + "only hosted models have it."
OWN = NO_EFFECT + "it names a thing of another service."

Status = Annotated[
    Literal["in_progress", "completed", "incomplete"] | None,
    Field(None, description=NO_EFFECT + "an item is read as it is."),
]
ItemId = Annotated[str | None, Field(None, description=OWN)]


class InputText(Strict):
    """Text of a message, or that a function gave back."""

    type: Literal["input_text"] = Field(description="Text.")
    text: str = Field(description="The text.")
    prompt_cache_breakpoint: dict[str, Any] | None = Field(
        None, description=NO_EFFECT + "prefixes are found by content."
    )


class OutputText(Strict):
    """Text of an earlier answer."""

    type: Literal["output_text"] = Field(description="Text.")
    text: str = Field(description="The text.")
    annotations: list[Any] | None = Field(None, description=NO_EFFECT + "the model reads the text.")
    logprobs: list[Any] | None = Field(None, description=NO_EFFECT + "the model reads the text.")


class Refusal(Strict):
    """What an earlier answer said instead."""

    type: Literal["refusal"] = Field(description="Text.")
    refusal: str = Field(description="The text.")


def _kind(value: Any) -> Any:
    """The tag of an item or a part. A message may leave its type out."""
    if isinstance(value, Mapping):
        return value.get("type", "message" if "role" in value else None)
    return getattr(value, "type", None)


def _by_kind(*kinds: str) -> Discriminator:
    """Tells apart what has these types, and says them where it has none of them."""
    return Discriminator(
        _kind,
        custom_error_type=REFUSAL,
        custom_error_message=f"not supported: its type must be one of {', '.join(kinds)}",
    )


def _list_of(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"must be text, or a list of {what}")
    return value


def _parts(value: Any) -> Any:
    return [{"type": "input_text", "text": value}] if isinstance(value, str) else _list_of(value, "parts")


def _items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else _list_of(value, "items")


Part = Annotated[
    Annotated[InputText, Tag("input_text")]
    | Annotated[OutputText, Tag("output_text")]
    | Annotated[Refusal, Tag("refusal")],
    _by_kind("input_text", "output_text", "refusal"),
]
Parts = Annotated[list[Part], BeforeValidator(_parts, str | list[Part])]


class MessageItem(Strict):
    """A message."""

    type: Literal["message"] = Field("message", description="May be left out.")
    role: Literal["user", "assistant", "system", "developer"] = Field(description="Who speaks.")
    content: Parts = Field(description="Text, or a list of parts.")
    id: ItemId = None
    status: Status = None
    phase: Literal["commentary", "final_answer"] | None = Field(
        None, description=NO_EFFECT + "the model reads the text."
    )


class CallItem(Strict):
    """A call that an earlier answer made."""

    type: Literal["function_call"] = Field(description="A call.")
    call_id: str = Field(description="What the result names.")
    name: str = Field(description="The function.")
    arguments: str = Field(description="JSON text.")
    id: ItemId = None
    status: Status = None
    caller: None = Field(None, description=HOSTED)
    namespace: None = Field(None, description=HOSTED)


class ResultItem(Strict):
    """What a function gave back."""

    type: Literal["function_call_output"] = Field(description="A result.")
    call_id: str = Field(description="The call.")
    output: Parts = Field(description="Text, or a list of parts.")
    id: ItemId = None
    status: Status = None
    name: str | None = Field(None, description="The function, where the call itself is not among the items.")
    caller: None = Field(None, description=HOSTED)
    namespace: None = Field(None, description=HOSTED)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")],
    _by_kind("message", "function_call", "function_call_output"),
]
Items = Annotated[list[Item], Field(min_length=1), BeforeValidator(_items, str | list[Item])]

TAGS = ("input_text", "output_text", "refusal", "message", "function_call", "function_call_output")
"""What a validator's place has behind an item's number: they are no part of the body's path."""


class FunctionTool(Strict):
    """A function that the model may call."""

    type: Literal["function"] = Field(description="Others, of hosted models, are refused.")
    name: str = Field(description="1 to 64 letters, digits, underscores and dashes.")
    description: str | None = Field(None, description="What it is for.")
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema of its arguments.")
    strict: bool | None = Field(
        None, description=NO_EFFECT + "arguments keep to the schema, or `normalisations` say why not."
    )
    allowed_callers: None = Field(None, description=HOSTED)
    defer_loading: Off | None = Field(None, description="True is refused: every tool is read.")
    output_schema: None = Field(None, description=REFUSED + "results are taken as they are.")

    def for_chat(self) -> dict[str, Any]:
        """The same as chat completions write it."""
        function = self.model_dump(include={"name", "description", "parameters", "strict"}, exclude_none=True)
        return {"type": "function", "function": function}


class TextConfig(Strict):
    """The form of the answer."""

    format: dict[str, Any] | None = Field(
        None, description='`{"type"}` text, json_object, or json_schema with `name` and `schema`.'
    )
    verbosity: None = Field(None, description=REFUSED + "the model has no such setting.")

    def for_chat(self) -> dict[str, Any] | None:
        """The `response_format` of chat completions, which has a schema one level deeper."""
        given = self.format
        if given is None or given == {"type": "text"}:
            return None
        if given.get("type") != "json_schema":
            return given
        return {"type": "json_schema", "json_schema": {k: v for k, v in given.items() if k != "type"}}


class Reasoning(Strict):
    """Settings of models that reason apart."""

    effort: Literal["none"] | None = Field(None, description="Others are refused: the model answers at once.")
    summary: None = Field(None, description=REFUSED + "there is no reasoning to sum up.")
    generate_summary: None = Field(None, description=REFUSED + "there is no reasoning to sum up.")
    context: Literal["auto"] | None = Field(None, description="Others are refused: there are no such items.")
    mode: Literal["standard"] | None = Field(None, description="Others are refused.")


class ResponseStreamOptions(StreamOptions):
    """Options of a stream."""

    include_usage: None = Field(None, description=REFUSED + "the last event always tells the counts.")


class ResponsesRequest(Generation):
    """`POST /v1/responses`."""

    input: Items = Field(description="Text, or a list of messages, function calls and their results.")
    instructions: str | None = Field(None, description="A system message before the input.")
    max_output_tokens: int | None = Field(None, ge=1, description="Most tokens of the answer.")
    text: TextConfig | None = Field(None, description="The form that the answer must have.")
    tools: list[FunctionTool] | None = Field(None, description="Functions that the model may call.")
    tool_choice: str | dict[str, Any] | None = Field(
        None, description='"auto", "none", "required" or `{"type": "function", "name"}`.'
    )
    parallel_tool_calls: bool | None = Field(None, description="Whether it may make several calls at once.")
    include: list[Literal["message.output_text.logprobs"]] | None = Field(
        None, description=f"`{LOGPROBS}`; what belongs to hosted tools is refused."
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description=f"The likeliest tokens beside each; needs `{LOGPROBS}`."
    )
    stream_options: ResponseStreamOptions | None = Field(None, description="Only with stream.")
    store: Off | None = Field(None, description="Nothing is stored: true is refused.")
    background: Off | None = Field(None, description="True is refused: nothing is stored.")
    truncation: Literal["disabled", "auto"] | None = Field(
        None, description="auto leaves out the oldest items of what does not fit, and says so."
    )
    reasoning: Reasoning | None = Field(None, description="The model does not reason apart.")
    service_tier: Literal["auto", "default"] | None = Field(None, description=NO_EFFECT + "there is one.")
    metadata: dict[str, str] | None = Field(None, description="Comes back with the response.")
    max_tool_calls: int | None = Field(
        None, ge=1, description=NO_EFFECT + "it counts calls of hosted tools, which are refused."
    )
    prompt_cache_key: str | None = Field(None, description=NO_EFFECT + "prefixes are found by content.")
    prompt_cache_retention: Literal["in_memory", "24h"] | None = Field(
        None, description=NO_EFFECT + "prefixes are kept while there is room."
    )
    safety_identifier: str | None = Field(None, description=NO_EFFECT + "there is nobody to tell.")
    previous_response_id: None = Field(None, description=NOT_STORED)
    conversation: None = Field(None, description=NOT_STORED)
    prompt: None = Field(None, description=NOT_STORED)
    background_options: None = Field(None, description=NOT_STORED)
    context_management: None = Field(None, description=REFUSED + "nothing is summed up.")
    prompt_cache_options: None = Field(None, description=REFUSED + "prefixes are kept by themselves.")
    moderation: None = Field(None, description=HOSTED)
    access_programs: None = Field(None, description=HOSTED)
    image: None = Field(None, description=REFUSED + "the model reads text only.")
    n: None = Field(None, description=REFUSED + "a response is one answer.")
    max_tokens: None = Field(None, description=REFUSED + "use max_output_tokens.")

    @model_validator(mode="after")
    def _together(self) -> ResponsesRequest:
        if self.top_logprobs and not self.include:
            raise ValueError(f'top_logprobs needs include: ["{LOGPROBS}"]')
        return self

    def options(self) -> dict[str, Any]:
        tools = None if self.tools is None else [tool.for_chat() for tool in self.tools]
        return super().options() | {
            "max_tokens": self.max_output_tokens,
            "logprobs": max(1, self.top_logprobs or 0) if self.include else 0,
            "response_format": None if self.text is None else self.text.for_chat(),
            "tools": tools or None,
            "tool_choice": _choice_for_chat(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
        }

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as chat completions write it."""
        messages: list[dict[str, Any]] = []
        if self.instructions is not None:
            messages.append({"role": "system", "content": self.instructions})
        last: Item | None = None
        for item in self.input:
            if isinstance(item, MessageItem):
                messages.append({"role": item.role, "content": _text_parts(item.content)})
            elif isinstance(item, ResultItem):
                content = _text_parts(item.output)
                result = {"role": "tool", "content": content, "tool_call_id": item.call_id, "name": item.name}
                messages.append(result)
            else:
                if not _of_one_answer(last):
                    messages.append({"role": "assistant", "content": None})
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                messages[-1].setdefault("tool_calls", []).append(call)
            last = item
        return messages


def _of_one_answer(last: Item | None) -> bool:
    """Whether a call after this item belongs to the same answer: its text and its calls are one turn."""
    return isinstance(last, CallItem) or (isinstance(last, MessageItem) and last.role == "assistant")


def _text_parts(parts: list[Part]) -> list[dict[str, Any]]:
    texts = [part.refusal if isinstance(part, Refusal) else part.text for part in parts]
    return [{"type": "text", "text": text} for text in texts]


def _choice_for_chat(choice: str | dict[str, Any] | None) -> Any:
    if not isinstance(choice, dict) or choice.get("type") != "function" or "name" not in choice:
        return choice
    rest = {key: value for key, value in choice.items() if key != "name"}
    return rest | {"function": {"name": choice["name"]}}
