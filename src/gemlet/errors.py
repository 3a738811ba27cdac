"""The tree of errors: what was wrong, where, what to do next; each has an exit code and an HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class GemletError(Exception):
    """Base of every error gemlet raises on purpose.

    `hint` is the next step for the person who reads the message; it is printed after it.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\n{hint}")
        self.message = message
        self.hint = hint


class InvalidRequestError(GemletError):
    """An argument has a wrong type, range or combination."""

    exit_code = 2
    http_status = 400


class UnsupportedParameterError(InvalidRequestError):
    """A parameter that is known but cannot be enforced; refused, never ignored."""

    def __init__(self, parameter: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.parameter = parameter


class ContextLengthError(InvalidRequestError):
    """A prompt, with the tokens asked for, does not fit the context. Both counts are in tokens."""

    def __init__(self, needed: int, context: int, *, hint: str | None = None) -> None:
        super().__init__(f"the request needs {needed} tokens, the context holds {context}", hint=hint)
        self.needed = needed
        self.context = context


class TextError(InvalidRequestError):
    """Text that cannot be encoded, such as a lone surrogate."""


class ConversationError(InvalidRequestError):
    """Messages that the chat format refuses."""


class ModelFileError(GemletError):
    """A model file that cannot be trusted or used. Names the file and the field inside it."""

    exit_code = 3
    http_status = 422

    def __init__(self, path: object, field: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: {field}: {problem}", hint=hint)
        self.path = str(path)
        self.field = field
        self.problem = problem


class ModelNotFoundError(GemletError):
    """A model reference that leads nowhere on this machine."""

    exit_code = 4
    http_status = 404


class LicenceError(GemletError):
    """Terms that have not been accepted or that forbid the use."""

    exit_code = 5
    http_status = 403


class DownloadError(GemletError):
    """A download that did not come, or not whole, or not as it should be; what came of it is kept."""

    exit_code = 12
    http_status = 502


class MissingExtraError(GemletError):
    """A feature whose optional dependency is not installed."""

    exit_code = 6
    http_status = 501

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the '{extra}' extra", hint=f"pip install 'gemlet[{extra}]'")
        self.extra = extra


class ConfigError(GemletError):
    """The configuration file or an environment variable has a wrong key or value."""

    exit_code = 7


class StateError(GemletError):
    """A key-value state was asked for positions it no longer keeps, or a saved one does not fit the model."""

    exit_code = 8


class ModelClosedError(GemletError):
    """The model was closed, or is used in a forked child of the process that opened it."""

    exit_code = 9


class QueueFullError(GemletError):
    """More requests are waiting than the queue admits."""

    exit_code = 10
    http_status = 429


class OutputError(GemletError):
    """A file or folder cannot be written where it was asked for; what was there is as it was."""

    exit_code = 14
    http_status = 507


class TrainingError(GemletError):
    """A training run that cannot go on, or would not fit this machine. What it wrote before is kept."""

    exit_code = 15
    http_status = 500


class DataError(GemletError):
    """Training data that cannot be used. `problems`: a line for each of the first, naming file, line, field
    and reason; `count`: how many there are in all."""

    exit_code = 16
    http_status = 422

    def __init__(self, problems: Sequence[str], *, count: int | None = None, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        self.count = len(self.problems) if count is None else count
        message = self.problems[0]
        if self.count > 1:
            more = self.count - len(self.problems)
            lines = (*self.problems, f"and {more} more") if more else self.problems
            message = "\n".join((f"{self.count} lines cannot be used:", *lines))
        super().__init__(message, hint=hint)
