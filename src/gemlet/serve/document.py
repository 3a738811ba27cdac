"""What the OpenAPI document says of answers. It describes them; nothing is checked when they are sent."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

Json = dict[str, Any]


class ErrorObject(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """A refused request."""

    error: ErrorObject


class OllamaError(BaseModel):
    """A refused request."""

    error: str


class Usage(BaseModel):
    """Counts of tokens."""

    prompt_tokens: int
    total_tokens: int


class AnswerUsage(Usage):
    """Counts of tokens."""

    completion_tokens: int
    prompt_tokens_details: dict[Literal["cached_tokens"], int]


class ChatCompletion(BaseModel):
    """An answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Json] = Field(min_length=1)
    usage: AnswerUsage
    timings: Json
    normalisations: list[str]


class TextCompletion(BaseModel):
    """Continuations of prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Json] = Field(min_length=1)
    usage: AnswerUsage
    timings: Json | None = None
    normalisations: list[str]


class ResponseUsage(BaseModel):
    """Counts of tokens."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens_details: dict[str, int]


class ResponseObject(BaseModel):
    """An answer as a list of items."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    incomplete_details: Json | None
    output: list[Json]
    usage: ResponseUsage
    tools: list[Json]


class Embedding(BaseModel):
    """A vector, or base64 of its float32 numbers."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(BaseModel):
    """Vectors of inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class ModelObject(BaseModel):
    """What is served under a name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    chat_format: bool
    adapters: list[str]
    weights: str


class ModelList(BaseModel):
    """All that is served."""

    object: Literal["list"]
    data: list[ModelObject]


class Tokens(BaseModel):
    """Token ids."""

    tokens: list[int]


class Text(BaseModel):
    """Text of ids."""

    content: str


class Rendered(BaseModel):
    """A conversation as the model reads it."""

    prompt: str
    tokens: list[int]


class Status(BaseModel):
    """That it runs, and with which models."""

    status: str
    models: list[str] | None = None


class ModelState(BaseModel):
    """A model at the moment."""

    id: str
    loaded: bool
    running: int
    waiting: int


class ServerState(BaseModel):
    """What a server holds at the moment, and since when it runs (Unix time)."""

    version: str
    pid: int
    since: float
    models: list[ModelState]
    resident_bytes: int


class OllamaAnswer(BaseModel):
    """An answer, or in a stream a piece of one."""

    model: str
    created_at: str
    done: bool
    message: Json | None = None
    response: str | None = None
    done_reason: Literal["stop", "length", "load"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    normalisations: list[str] | None = None


class OllamaTags(BaseModel):
    """All that is served."""

    models: list[Json]


class OllamaShown(BaseModel):
    """What is served under a name."""

    details: Json
    parameters: str
    capabilities: list[str]
    model_info: Json


class OllamaVersion(BaseModel):
    """The version of the server."""

    version: str


def answers(model: type[BaseModel], *, stream: str | None = None) -> dict[int | str, dict[str, Any]]:
    """What FastAPI's `responses` takes for a route; `stream` is the media type of its streams."""
    content: Json = {} if stream is None else {stream: {}}
    return {200: {"model": model, "content": content}}


def errors(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The same for what is refused."""
    return {
        "4XX": {"model": model, "description": "Refused: the message says why."},
        "5XX": {"model": model, "description": "Not answered."},
    }
