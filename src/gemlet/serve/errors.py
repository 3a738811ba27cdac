"""Errors in the form that clients of the OpenAI API read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gemlet.errors import (
    ContextLengthError,
    GemletError,
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    UnsupportedParameterError,
)
from gemlet.serve.schema import ChatRequest, CompletionRequest

OLLAMA = "/api/"
"""Where paths of the Ollama API begin. Its errors are a text."""

FORM = "response_format"
CALLED = {"/v1/responses": "text.format", "/api/chat": "format", "/api/generate": "format"}
TOO_LONG = "context_length_exceeded"
PROMPTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
"""What each path calls the text that can be too long; the others call it input."""
"""What routes call that parameter."""

MAX_MESSAGE = 1000
"""Characters of a message."""

RETRY_AFTER = 1
"""Seconds after which a client that was told to wait may ask again."""


class ApiError(Exception):
    """What ends a request: the HTTP status, the object, and headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if len(message) > MAX_MESSAGE:  # it repeats something long of the request
            message = message[:MAX_MESSAGE] + " …"
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": type, "param": param and param[:MAX_MESSAGE], "code": code}
        }
        self.headers = dict(headers or {})

    def for_path(self, path: str) -> dict[str, Any]:
        """The object as the clients of this path read it."""
        own = CALLED.get(path, FORM)
        message = str(self).replace(FORM, own)
        if path.startswith(OLLAMA):
            return {"error": message}
        error = self.body["error"]
        param = own if error["param"] == FORM else error["param"]
        if error["code"] == TOO_LONG:
            param = PROMPTS.get(path, "input")
        return {"error": error | {"message": message, "param": param}}


_PLACE = re.compile(r"([a-z_]+)(?:\[\d+\]|\.[A-Za-z_]\w*)*")
_FIELDS = ChatRequest.model_fields.keys() | CompletionRequest.model_fields.keys()


def place_named(message: str) -> str | None:
    """The place in a request's body that a message begins with, such as `messages[1].role`."""
    found = _PLACE.match(message)
    return found[0] if found and found[1] in _FIELDS else None


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error. Of a defect it learns that there is one, not where."""
    if isinstance(error, ApiError):
        return error
    if not isinstance(error, GemletError):
        return ApiError(500, "internal error: the server's log has the details", type="server_error")
    message = error.message if error.hint is None else f"{error.message} ({error.hint})"
    if isinstance(error, QueueFullError):
        headers = {"Retry-After": str(RETRY_AFTER)}
        return ApiError(429, message, type="rate_limit_error", code="queue_full", headers=headers)
    if isinstance(error, ContextLengthError):
        return ApiError(400, message, code=TOO_LONG)
    if isinstance(error, UnsupportedParameterError):
        return ApiError(400, message, param=error.parameter, code="unsupported_parameter")
    if isinstance(error, ModelNotFoundError):
        return ApiError(404, message, param="model", code="model_not_found")
    if isinstance(error, InvalidRequestError):
        return ApiError(400, message, param=place_named(message), code="invalid_value")
    return ApiError(error.http_status, message, type="server_error")
